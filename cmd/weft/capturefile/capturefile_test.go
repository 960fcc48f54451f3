package capturefile

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"weft/packet"
)

var when = time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)

// old writes a pcap file of three packets, the second of which was cut.
func old(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriter(&b)
	if err := w.WriteFileHeader(64, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for i, wire := range []int{60, 1500, 60} {
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: when.Add(time.Duration(i) * time.Second), CaptureLength: 60, Length: wire}, make([]byte, 60)); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// next writes a pcapng file of two interfaces with unlike links, and a packet of each.
func next(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.AddInterface(pcapgo.NgInterface{Name: "any", LinkType: 276, SnapLength: 100, TimestampResolution: 9}); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: when, CaptureLength: 60, Length: 60, InterfaceIndex: i}, make([]byte, 60)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zip(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestReader(t *testing.T) {
	for name, file := range map[string][]byte{"plain": old(t), "gzip": zip(t, old(t))} {
		t.Run(name, func(t *testing.T) {
			r, err := NewReader(bytes.NewReader(file))
			if err != nil {
				t.Fatal(err)
			}
			for i, wire := range []int{60, 1500, 60} {
				f, err := r.Next()
				if err != nil || f.Number != i+1 || f.Offset != int64(24+76*i) || len(f.Data) != 60 || f.Wire != wire || f.Link != packet.Ethernet || !f.When.Equal(when.Add(time.Duration(i)*time.Second)) {
					t.Fatalf("%+v, %v", f, err)
				}
			}
			if _, err := r.Next(); err != io.EOF {
				t.Fatal(err)
			}
		})
	}
	r, err := NewReader(bytes.NewReader(next(t)))
	if err != nil {
		t.Fatal(err)
	}
	for i, link := range []packet.Link{packet.Ethernet, packet.LinuxSLL2} {
		f, err := r.Next()
		if err != nil || f.Number != i+1 || f.Link != link || !f.When.Equal(when) {
			t.Fatalf("%+v, %v", f, err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatal(err)
	}
}

func TestBadFilesSayWhere(t *testing.T) {
	huge := old(t)
	binary.LittleEndian.PutUint32(huge[24+76+8:], 1<<30)
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"empty":            {nil, "read the file's header: the file ends in the middle of it"},
		"half a header":    {old(t)[:20], "read the file's header: the file ends in the middle of it"},
		"text":             {[]byte("not a capture at all"), "it begins with 6e 6f 74 20, and so does neither pcap nor pcapng; editcap converts other captures"},
		"snoop":            {[]byte("snoop\x00\x00\x00\x00\x00\x00\x02"), "it is a snoop file; convert it: editcap -F pcapng FILE OUT.pcapng"},
		"cut in a packet":  {old(t)[:24+76+30], "packet 2, at byte 100: the file ends in the middle of it"},
		"cut in a head":    {old(t)[:24+76+8], "packet 2, at byte 100: the file ends in the middle of it"},
		"cut when zipped":  {zip(t, old(t))[:60], "the file ends in the middle of it"},
		"a length of 1 GB": {huge, "packet 2, at byte 100: capture length exceeds snap length: 1073741824 > 64"},
		"cut pcapng":       {next(t)[:len(next(t))-10], "the file ends in the middle of it"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := NewReader(bytes.NewReader(c.file))
			for err == nil {
				_, err = r.Next()
			}
			if !strings.HasSuffix(err.Error(), c.want) {
				t.Errorf("%v\nwant %s", err, c.want)
			}
		})
	}
}

// FuzzReader: any bytes end with an error, which is of this package, or io.EOF.
func FuzzReader(f *testing.F) {
	f.Add(old(f))
	f.Add(next(f))
	f.Add(zip(f, old(f)))
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := NewReader(bytes.NewReader(file))
		if err != nil {
			return
		}
		for n := 1; ; n++ {
			frame, err := r.Next()
			var at *Error
			if err != nil && err != io.EOF && (!errors.As(err, &at) || at.Packet != n) {
				t.Fatalf("packet %d: %v", n, err)
			}
			if err != nil {
				return
			}
			if frame.Number != n || frame.Offset > r.Offset() {
				t.Fatalf("%+v at %d", frame, r.Offset())
			}
		}
	})
}
