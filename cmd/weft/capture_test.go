package main

import (
	"bytes"
	"io"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

func blocks(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := w.WritePacket(gopacket.CaptureInfo{CaptureLength: 60, Length: 60}, make([]byte, 60)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Wherever the answer is cut, the file ends with a block.
func TestFileIsWholeWhereverItIsCut(t *testing.T) {
	whole := blocks(t)
	for n := range len(whole) + 1 {
		var out bytes.Buffer
		err := copyBlocks(&out, bytes.NewReader(whole[:n]))
		if (err == nil) != (out.Len() == n) {
			t.Errorf("cut to %d bytes, %d came, %v", n, out.Len(), err)
		}
		if out.Len() == 0 {
			continue
		}
		r, err := pcapgo.NewNgReader(&out, pcapgo.DefaultNgReaderOptions)
		for err == nil {
			_, _, err = r.ReadPacketData()
		}
		if err != io.EOF {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

func FuzzCopyBlocks(f *testing.F) {
	f.Add(blocks(f))
	f.Fuzz(func(_ *testing.T, b []byte) { copyBlocks(io.Discard, bytes.NewReader(b)) }) //nolint:errcheck // it must not panic
}
