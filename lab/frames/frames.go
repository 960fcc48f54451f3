// Package frames compares captures: what a tool received with what was captured
// at the source. It is the oracle of the tests of taps, so it shares no code
// with what it judges: decoding is gopacket's.
package frames

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// Capture is the frames of one pcap file, in order.
type Capture struct {
	Frames []Frame
}

// Frame is one captured frame as the file holds it.
type Frame struct {
	Data   []byte
	Length int // on the wire
}

// Read reads a pcap file (libpcap format, Ethernet).
func Read(path string) (*Capture, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if r.LinkType() != layers.LinkTypeEthernet {
		return nil, fmt.Errorf("read %s: link type %s, want Ethernet", path, r.LinkType())
	}
	c := &Capture{}
	for {
		data, info, err := r.ReadPacketData()
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF: // the last record may be half written
			return c, nil
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		c.Frames = append(c.Frames, Frame{Data: data, Length: info.Length})
	}
}

// Longest is the length of the longest frame, in bytes with its Ethernet header.
func (c *Capture) Longest() int {
	longest := 0
	for _, f := range c.Frames {
		longest = max(longest, f.Length)
	}
	return longest
}

// Contains says whether the bytes of any frame hold text.
func (c *Capture) Contains(text string) bool {
	return slices.ContainsFunc(c.Frames, func(f Frame) bool { return strings.Contains(string(f.Data), text) })
}

// A segment is a frame as a wire would carry it, reduced to what must not
// change on its way to a tool. Checksums are left out: offload leaves them
// unfinished at the source. They are judged by tools that verify them.
type segment string

// Diff lists what only one of the captures holds, super-frames of either cut
// into segments first. An empty list means they are equal, packet for packet.
func Diff(source, tool *Capture) []string {
	mss := largestPayload(tool)
	want, got := source.segments(mss), tool.segments(mss)
	var out []string
	for _, s := range slices.Sorted(maps.Keys(want)) {
		if n := want[s] - got[s]; n > 0 {
			out = append(out, fmt.Sprintf("missing at the tool %dx: %s", n, s))
		}
	}
	for _, s := range slices.Sorted(maps.Keys(got)) {
		if n := got[s] - want[s]; n > 0 {
			out = append(out, fmt.Sprintf("only at the tool %dx: %s", n, s))
		}
	}
	return out
}

// Count is the number of segments: the packets a wire would have carried.
func (c *Capture) Count(like *Capture) int {
	n := 0
	for _, k := range c.segments(largestPayload(like)) {
		n += k
	}
	return n
}

type flow struct {
	net, transport gopacket.Flow
}

// largestPayload is the segment size of each TCP flow, by direction.
func largestPayload(c *Capture) map[flow]int {
	largest := map[flow]int{}
	for _, f := range c.Frames {
		if p := decode(f.Data); p.tcp != nil {
			largest[p.flow()] = max(largest[p.flow()], len(p.tcp.Payload))
		}
	}
	return largest
}

func (c *Capture) segments(mss map[flow]int) map[segment]int {
	out := map[segment]int{}
	for _, f := range c.Frames {
		p := decode(f.Data)
		if p.tcp == nil {
			out[p.whole(f)]++
			continue
		}
		size := mss[p.flow()]
		payload := p.tcp.Payload
		if size == 0 || len(payload) <= size {
			out[p.segment(payload, 0, true)]++
			continue
		}
		for at := 0; at < len(payload); at += size {
			end := min(at+size, len(payload))
			out[p.segment(payload[at:end], at, end == len(payload))]++
		}
	}
	return out
}

type decoded struct {
	eth gopacket.Flow
	net gopacket.NetworkLayer
	tcp *layers.TCP
	ttl uint8
}

func decode(data []byte) decoded {
	p := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	var d decoded
	if l := p.LinkLayer(); l != nil {
		d.eth = l.LinkFlow()
	}
	d.net = p.NetworkLayer()
	switch ip := d.net.(type) {
	case *layers.IPv4:
		d.ttl = ip.TTL
	case *layers.IPv6:
		d.ttl = ip.HopLimit
	}
	if l, ok := p.TransportLayer().(*layers.TCP); ok && d.net != nil {
		d.tcp = l
	}
	return d
}

func (d decoded) flow() flow { return flow{d.net.NetworkFlow(), d.tcp.TransportFlow()} }

// segment describes one cut of a TCP packet. Of a super-frame only the last
// segment keeps FIN and PSH (Linux net/ipv4/tcp_offload.c).
func (d decoded) segment(payload []byte, offset int, last bool) segment {
	t := d.tcp
	var flags strings.Builder
	for _, f := range []struct {
		name string
		set  bool
	}{{"S", t.SYN}, {"A", t.ACK}, {"R", t.RST}, {"F", t.FIN && last}, {"P", t.PSH && last}, {"U", t.URG}} {
		if f.set {
			flags.WriteString(f.name)
		}
	}
	options := sha256.New()
	for _, o := range t.Options {
		options.Write([]byte{byte(o.OptionType)})
		options.Write(o.OptionData)
	}
	return segment(fmt.Sprintf("%s %s:%d > %s:%d ttl %d seq %d ack %d %s win %d opt %x len %d %x",
		d.eth, d.net.NetworkFlow().Src(), t.SrcPort, d.net.NetworkFlow().Dst(), t.DstPort, d.ttl, t.Seq+uint32(offset), t.Ack,
		flags.String(), t.Window, options.Sum(nil)[:4], len(payload), sum(payload)))
}

// whole describes a frame that is no TCP: all of it but a UDP checksum.
func (d decoded) whole(f Frame) segment {
	data := slices.Clone(f.Data)
	p := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
	if udp, ok := p.TransportLayer().(*layers.UDP); ok && len(udp.Contents) == 8 {
		clear(udp.Contents[6:8])
	}
	return segment(fmt.Sprintf("%s %s len %d %x", d.eth, kinds(p), f.Length, sum(data)))
}

func kinds(p gopacket.Packet) string {
	var names []string
	for _, l := range p.Layers() {
		names = append(names, l.LayerType().String())
	}
	return strings.Join(names, "/")
}

func sum(data []byte) []byte {
	s := sha256.Sum256(data)
	return s[:8]
}
