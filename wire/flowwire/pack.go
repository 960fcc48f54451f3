package flowwire

import (
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"weft/wire/wirepb"
)

// maxUnpacked bounds what a batch's columns can take: what is sent must not be
// able to fill the receiver's memory.
const maxUnpacked = 16 << 20

// Columns are alike from value to value: the fastest level makes a fifth of them.
// Each of these is used by many at a time.
var (
	packer = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	})
	unpacker = sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxUnpacked), zstd.WithDecoderLowmem(true))
	})
)

func pack(c *wirepb.FlowColumns) ([]byte, error) {
	z, err := packer()
	if err != nil {
		return nil, fmt.Errorf("compress flow records: %w", err)
	}
	raw, err := proto.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write flow records: %w", err)
	}
	return z.EncodeAll(raw, nil), nil
}

func unpack(packed []byte) (*wirepb.FlowColumns, error) {
	z, err := unpacker()
	if err != nil {
		return nil, fmt.Errorf("decompress flow records: %w", err)
	}
	raw, err := z.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("columns: decompress: %w", err)
	}
	var c wirepb.FlowColumns
	if err := proto.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("columns: %w", err)
	}
	return &c, nil
}
