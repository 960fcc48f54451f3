package tapstream

import (
	"math"
	"slices"

	"github.com/klauspost/compress/s2"
)

// Sizes of the batch format.
const (
	batchHeader  = 40
	recordHeader = 28
	// MaxRaw is the most that a batch's records may hold before compression.
	MaxRaw = 384 << 10
	// SealAt is how full an Encoder fills a batch before it asks to be sealed.
	SealAt = 128 << 10
	// MaxFrame is the longest run of bytes kept of one frame.
	MaxFrame = 128 << 10

	codecStored = 0
	codecS2     = 1
)

// The flags of a record.
const (
	FlagEgress    = 1 // sent by the workload
	FlagVLAN      = 2 // VLANTCI and VLANProto hold a tag that Data does not
	FlagTruncated = 4 // cut at the tap's own limit, not by snaplen
	FlagRaw       = 8 // Data begins with the IP header
)

// Record is one captured frame or super-frame.
type Record struct {
	Time      int64  // nanoseconds since 1970
	Length    uint32 // of the frame in the source's kernel
	Workload  uint32 // number from Names
	GSOSize   uint16 // payload of each segment; 0: no super-frame
	Segments  uint16 // frames on the wire, 1 at least
	VLANTCI   uint16
	VLANProto uint16
	Flags     uint8
	Data      []byte // what was kept; at most Length bytes
}

// Encoder gathers records into a batch. The zero value is ready; its buffers
// grow to the largest batch so far and are kept.
type Encoder struct {
	raw     []byte
	scratch []byte
	base    int64
	records uint32
	packets uint32
	bytes   uint64
}

// Len is the number of records gathered, Size the bytes they take uncompressed.
func (e *Encoder) Len() int { return int(e.records) }

// Size is the uncompressed size of what was gathered.
func (e *Encoder) Size() int { return len(e.raw) }

// Sums returns the packets and bytes gathered.
func (e *Encoder) Sums() (packets, bytes uint64) { return uint64(e.packets), e.bytes }

// Base is the capture time of the first record.
func (e *Encoder) Base() int64 { return e.base }

// Add gathers a record. It returns false where the batch has to be sealed
// first: it is full, or the capture times lie too far apart.
func (e *Encoder) Add(r *Record) bool {
	data := r.Data[:min(len(r.Data), MaxFrame)]
	if e.records == 0 {
		e.base = r.Time
	} else if len(e.raw) >= SealAt || len(e.raw)+recordHeader+len(data) > MaxRaw {
		return false
	}
	dt := r.Time - e.base
	if dt < math.MinInt32 || dt > math.MaxInt32 {
		return false
	}
	n := len(e.raw)
	e.raw = slices.Grow(e.raw, recordHeader+len(data))[:n+recordHeader]
	h := e.raw[n : n+recordHeader]
	order.PutUint32(h[0:], uint32(int32(dt)))
	order.PutUint32(h[4:], r.Length)
	order.PutUint32(h[8:], uint32(len(data)))
	order.PutUint32(h[12:], r.Workload)
	order.PutUint16(h[16:], r.GSOSize)
	order.PutUint16(h[18:], r.Segments)
	order.PutUint16(h[20:], r.VLANTCI)
	order.PutUint16(h[22:], r.VLANProto)
	h[24], h[25], h[26], h[27] = r.Flags, 0, 0, 0
	e.raw = append(e.raw, data...)
	e.records++
	e.packets += uint32(r.Segments)
	e.bytes += uint64(r.Length)
	return true
}

// Seal appends the batch to dst as a message and empties the Encoder.
func (e *Encoder) Seal(dst []byte, sequence uint64) []byte {
	start := len(dst)
	dst = appendHeader(dst, TypeBatch)
	if need := s2.MaxEncodedLen(len(e.raw)); len(e.scratch) < need {
		e.scratch = make([]byte, max(need, s2.MaxEncodedLen(cap(e.raw))))
	}
	data, codec := s2.Encode(e.scratch, e.raw), byte(codecS2)
	if len(data) >= len(e.raw) {
		data, codec = e.raw, codecStored
	}
	dst = order.AppendUint64(dst, sequence)
	dst = order.AppendUint64(dst, uint64(e.base))
	dst = order.AppendUint32(dst, e.records)
	dst = order.AppendUint32(dst, uint32(len(e.raw)))
	dst = order.AppendUint32(dst, e.packets)
	dst = order.AppendUint64(dst, e.bytes)
	dst = append(dst, codec, 0, 0, 0)
	dst = append(dst, data...)
	e.Reset()
	return endMessage(dst, start)
}

// Reset drops what was gathered.
func (e *Encoder) Reset() {
	e.raw, e.records, e.packets, e.bytes = e.raw[:0], 0, 0, 0
}

// Batch is the head of a batch message.
type Batch struct {
	Sequence uint64
	Base     int64
	Records  uint32
	RawLen   uint32
	Packets  uint32
	Bytes    uint64
	codec    byte
	data     []byte
}

// ParseBatch reads the head of a batch and checks its lengths. The batch refers
// to b.
func ParseBatch(b []byte) (Batch, error) {
	if len(b) < batchHeader {
		return Batch{}, malformed("batch of %d bytes", len(b))
	}
	batch := Batch{
		Sequence: order.Uint64(b), Base: int64(order.Uint64(b[8:])), Records: order.Uint32(b[16:]), RawLen: order.Uint32(b[20:]),
		Packets: order.Uint32(b[24:]), Bytes: order.Uint64(b[28:]), codec: b[36], data: b[batchHeader:],
	}
	switch {
	case batch.RawLen > MaxRaw:
		return batch, malformed("batch holds %d bytes; %d at most", batch.RawLen, MaxRaw)
	case uint64(batch.Records)*recordHeader > uint64(batch.RawLen):
		return batch, malformed("batch says %d records in %d bytes", batch.Records, batch.RawLen)
	case batch.codec > codecS2:
		return batch, malformed("batch is coded by %d", batch.codec)
	case batch.Sequence == 0:
		return batch, malformed("batch has no sequence")
	}
	return batch, nil
}

// Decoder reads the records of batches. The zero value is ready.
type Decoder struct {
	buf  []byte
	rest []byte
	base int64
	left uint32
}

// Open begins with the records of a batch.
func (d *Decoder) Open(b Batch) error {
	d.left, d.rest, d.base = 0, nil, b.Base
	if b.codec == codecStored {
		if len(b.data) != int(b.RawLen) {
			return malformed("batch holds %d bytes and says %d", len(b.data), b.RawLen)
		}
		d.rest, d.left = b.data, b.Records
		return nil
	}
	if n, err := s2.DecodedLen(b.data); err != nil || n != int(b.RawLen) {
		return malformed("batch's data does not have its length")
	}
	if d.buf == nil {
		d.buf = make([]byte, MaxRaw)
	}
	raw, err := s2.Decode(d.buf, b.data)
	if err != nil {
		return malformed("batch's data: %v", err)
	}
	d.rest, d.left = raw, b.Records
	return nil
}

// Next fills r with the next record; its data is valid until the next Open. It
// returns false after the last.
func (d *Decoder) Next(r *Record) (bool, error) {
	if d.left == 0 {
		if len(d.rest) != 0 {
			return false, malformed("batch has %d bytes after its records", len(d.rest))
		}
		return false, nil
	}
	if len(d.rest) < recordHeader {
		return false, malformed("record is cut")
	}
	h := d.rest
	n := order.Uint32(h[8:])
	*r = Record{
		Time: d.base + int64(int32(order.Uint32(h))), Length: order.Uint32(h[4:]), Workload: order.Uint32(h[12:]),
		GSOSize: order.Uint16(h[16:]), Segments: order.Uint16(h[18:]), VLANTCI: order.Uint16(h[20:]), VLANProto: order.Uint16(h[22:]), Flags: h[24],
	}
	switch {
	case n > MaxFrame || int(n) > len(h)-recordHeader:
		return false, malformed("record says %d bytes, %d are left", n, len(h)-recordHeader)
	case n > r.Length:
		return false, malformed("record keeps %d bytes of a frame of %d", n, r.Length)
	case r.Segments == 0:
		return false, malformed("record stands for no packet")
	}
	r.Data = h[recordHeader : recordHeader+int(n) : recordHeader+int(n)]
	d.rest = h[recordHeader+int(n):]
	d.left--
	return true, nil
}
