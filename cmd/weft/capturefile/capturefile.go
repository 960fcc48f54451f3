// Package capturefile reads pcap and pcapng files, plain or compressed with gzip,
// and says where a bad one is bad.
package capturefile

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"weft/packet"
)

// Frame is one packet of a file. Data is good until the next is read.
type Frame struct {
	Number int // from 1, as other programs count
	Offset int64
	When   time.Time
	Data   []byte
	Wire   int // bytes on the wire; more than Data where the capture cut
	Link   packet.Link
	// Unread is the name of a link type that weft does not read; Link means nothing
	// then.
	Unread string
}

// Reader reads a file from its beginning.
type Reader struct {
	counted *counter
	buffer  *bufio.Reader // the library's own: what it holds was counted and not read
	ng      *pcapgo.NgReader
	old     *pcapgo.Reader
	frame   Frame
}

// Error is a fault in a file.
type Error struct {
	Packet int   // that was being read
	Offset int64 // where it begins; behind decompression
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("packet %d, at byte %d: %v", e.Packet, e.Offset, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// ErrTruncated is what a file ends with that was not written to its end.
var ErrTruncated = errors.New("the file ends in the middle of it")

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

const (
	magicNG   = 0x0a0d0d0a
	gzipMagic = "\x1f\x8b"
)

// others are what people take for pcap files.
var others = map[string]string{
	"snoop\x00\x00\x00": "a snoop file", "TRSNIFF data": "a Sniffer file", "RTSS": "a Network Monitor file", "GMBU": "a Network Monitor file", "PK\x03\x04": "a zip archive",
	"\x28\xb5\x2f\xfd": "compressed with zstd", "\xfd7zXZ": "compressed with xz", "BZh": "compressed with bzip2", "\x34\xcd\xb2\xa1": "a pcap file as a patched libpcap wrote it", "\xa1\xb2\xcd\x34": "a pcap file as a patched libpcap wrote it",
}

// NewReader reads a file's header.
func NewReader(r io.Reader) (*Reader, error) {
	first := bufio.NewReaderSize(r, 64<<10)
	head, err := first.Peek(2)
	if err != nil {
		return nil, fmt.Errorf("read the file's header: %w", noEOF(err))
	}
	in := io.Reader(first)
	if string(head) == gzipMagic {
		if in, err = gzip.NewReader(first); err != nil {
			return nil, fmt.Errorf("decompress: %w", noEOF(err))
		}
	}
	out := &Reader{counted: &counter{r: in}}
	out.buffer = bufio.NewReaderSize(out.counted, 64<<10)
	head, err = out.buffer.Peek(12)
	if len(head) < 4 {
		return nil, fmt.Errorf("read the file's header: %w", noEOF(err))
	}
	switch magic := binary.LittleEndian.Uint32(head); {
	case magic == magicNG:
		out.ng, err = pcapgo.NewNgReader(out.buffer, pcapgo.NgReaderOptions{WantMixedLinkType: true, SkipUnknownVersion: true})
	case isPcap(magic):
		out.old, err = pcapgo.NewReader(out.buffer)
	default:
		for prefix, what := range others {
			if bytes.HasPrefix(head, []byte(prefix)) {
				return nil, fmt.Errorf("it is %s; convert it: editcap -F pcapng FILE OUT.pcapng", what)
			}
		}
		return nil, fmt.Errorf("it begins with % x, and so does neither pcap nor pcapng; editcap converts other captures", head[:4])
	}
	if err != nil {
		return nil, fmt.Errorf("read the file's header: %w", noEOF(err))
	}
	return out, nil
}

func isPcap(magic uint32) bool {
	return magic == 0xa1b2c3d4 || magic == 0xd4c3b2a1 || magic == 0xa1b23c4d || magic == 0x4d3cb2a1
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrTruncated
	}
	return err
}

// Offset is how many bytes were read, decompressed.
func (r *Reader) Offset() int64 { return r.counted.n - int64(r.buffer.Buffered()) }

// Next returns the next packet, io.EOF behind the last, or an *Error.
func (r *Reader) Next() (*Frame, error) {
	f := &r.frame
	f.Number++
	f.Offset = r.Offset()
	var ci gopacket.CaptureInfo
	var link layers.LinkType
	var err error
	if r.ng != nil {
		if f.Data, ci, err = r.ng.ZeroCopyReadPacketData(); err == nil {
			link, _ = ci.AncillaryData[0].(layers.LinkType)
		}
	} else {
		f.Data, ci, err = r.old.ZeroCopyReadPacketData()
		link = r.old.LinkType()
	}
	if err == io.EOF && r.Offset() == f.Offset { //nolint:errorlint // the library wraps none
		return nil, io.EOF
	}
	if err != nil {
		if err == io.EOF && r.ng != nil && r.Offset() > f.Offset { //nolint:errorlint
			return nil, io.EOF // blocks that are no packets came last
		}
		return nil, &Error{Packet: f.Number, Offset: f.Offset, Err: noEOF(err)}
	}
	f.When, f.Wire = ci.Timestamp, ci.Length
	f.Link, f.Unread = linkOf(link)
	return f, nil
}

// linkOf reads the numbers of https://www.tcpdump.org/linktypes.html.
func linkOf(t layers.LinkType) (packet.Link, string) {
	switch t {
	case 0, 108:
		return packet.Loopback, ""
	case 1:
		return packet.Ethernet, ""
	case 9, 50, 104:
		return packet.PPP, ""
	case 12, 14, 101, 228, 229:
		return packet.RawIP, ""
	case 113:
		return packet.LinuxSLL, ""
	case 276:
		return packet.LinuxSLL2, ""
	}
	if name := t.String(); name != "" && name != "UnknownLinkType" {
		return 0, fmt.Sprintf("%s (%d)", name, uint16(t))
	}
	return 0, fmt.Sprint(uint16(t))
}
