package bpf

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/dchest/siphash"
	"golang.org/x/sys/unix"

	"weft/agent/connection"
	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
)

// sealOption is the reference for seal_option: the whole option for a SYN.
func sealOption(host uint32, s datapath.Secret, identity policy.Identity, seq uint32) []byte {
	out := []byte{254, 20, 0x57, 0x45}
	out = binary.BigEndian.AppendUint32(out, host)
	out = binary.BigEndian.AppendUint32(out, uint32(identity))
	message := binary.BigEndian.AppendUint32(out[8:12:12], seq)
	tag := siphash.Hash(binary.LittleEndian.Uint64(s[:]), binary.LittleEndian.Uint64(s[8:]), message)
	return binary.LittleEndian.AppendUint64(out, tag)
}

// syn is an IPv4 packet with a SYN; options are filled up with zeros.
func syn(from, to netip.AddrPort, seq uint32, options []byte) []byte {
	options = append(bytes.Clone(options), make([]byte, (4-len(options)%4)%4)...)
	p := make([]byte, 40, 40+len(options))
	p = append(p, options...)
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], from.Addr().AsSlice())
	copy(p[16:], to.Addr().AsSlice())
	tcp := p[20:]
	binary.BigEndian.PutUint16(tcp, from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	tcp[12], tcp[13] = byte(len(tcp)/4)<<4, 2
	binary.BigEndian.PutUint16(tcp[14:], 1000)
	sum := uint32(unix.IPPROTO_TCP) + uint32(len(tcp))
	for i := 12; i < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(sum))
	return p
}

// sendRaw sends a packet as whoever may do so in an endpoint's namespace.
func (p *pair) sendRaw(t *testing.T, from string, packet []byte) {
	t.Helper()
	err := inNamespace(p.Endpoint(from).NetNS, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A workload that writes its own packets passes for nobody.
func TestOptionForged(t *testing.T) {
	p := newPair(t)
	w := p.World(model.ModeEnforce, webOnly, anyOut)
	p.apply(t, w.States)
	var secret datapath.Secret // what alpha seals its calls to beta with
	for _, h := range w.States[0].Hosts {
		if h.Number == p.Sides[1].Number {
			secret = h.Call
		}
	}
	web, store, alpha := w.Identity(p.Endpoint("web")), w.Identity(p.Endpoint("store")), w.Identity(p.Endpoint("alpha"))
	seal := func(identity policy.Identity, seq uint32) []byte {
		return sealOption(p.Sides[0].Number, secret, identity, seq)
	}
	guess := seal(web, 7)
	guess[19] ^= 1
	shifted := append([]byte{1, 2, 4, 5, 180, 1, 3, 3, 7}, seal(web, 8)...)
	port := uint16(20000)
	for _, c := range []struct {
		name    string
		seq     uint32
		options []byte
		by      connection.PeerBy
		count   func(c OptionCounts) uint64
	}{
		{"none", 1, nil, connection.ByAddress, nil},
		{"genuine", 2, seal(web, 2), connection.ByOption, func(c OptionCounts) uint64 { return c.Accepted }},
		{"genuine after others", 8, shifted, connection.ByOption, func(c OptionCounts) uint64 { return c.Accepted }},
		{"of the receiver itself", 14, sealOption(p.Sides[1].Number, secret, web, 14), connection.ByAddress, func(c OptionCounts) uint64 { return c.WrongTag }},
		{"replayed", 2, seal(web, 2), connection.ByAddress, func(c OptionCounts) uint64 { return c.Replayed }},
		{"one bit of the tag", 7, guess, connection.ByAddress, func(c OptionCounts) uint64 { return c.WrongTag }},
		{"of another sequence number", 3, seal(web, 2), connection.ByAddress, func(c OptionCounts) uint64 { return c.WrongTag }},
		{"under a guessed secret", 4, sealOption(p.Sides[0].Number, datapath.Secret{}, web, 4), connection.ByAddress, func(c OptionCounts) uint64 { return c.WrongTag }},
		{"of an unknown host", 5, sealOption(99, secret, web, 5), connection.ByAddress, func(c OptionCounts) uint64 { return c.UnknownHost }},
		{"for somebody elsewhere", 6, seal(store, 6), connection.ByAddress, func(c OptionCounts) uint64 { return c.NotResident }},
		{"after the end of options", 9, append([]byte{1, 0, 1, 1}, seal(web, 9)...), connection.ByAddress, nil},
		{"inside another", 10, append([]byte{9, 24, 1, 1}, seal(web, 10)...), connection.ByAddress, nil},
		{"after one that does not end", 11, append([]byte{9, 0, 1, 1}, seal(web, 11)...), connection.ByAddress, nil},
		{"too short", 12, append([]byte{254, 8}, seal(web, 12)[2:8]...), connection.ByAddress, nil},
		{"longer than the header", 13, append([]byte{254, 40}, seal(web, 13)[2:]...), connection.ByAddress, nil},
	} {
		port++
		before := p.counts(t, 1)
		p.sendRaw(t, "tool", syn(netip.AddrPortFrom(p.Endpoint("tool").IPv4, port), netip.MustParseAddrPort("10.87.0.2:80"), c.seq, c.options))
		line, arrived := p.byPort(t, port)
		if !arrived && c.count == nil {
			t.Logf("%s: nothing arrives", c.name) // connection tracking on the way has dropped it
			continue
		}
		want := alpha
		if c.by == connection.ByOption {
			want = web
		}
		if line.PeerBy != c.by || line.PeerIdentity != want || (line.Action == model.ActionAllow) != (c.by == connection.ByOption) {
			t.Errorf("%s: %s peer %d by %s", c.name, line.Action, line.PeerIdentity, line.PeerBy)
		}
		after := p.counts(t, 1)
		if c.count == nil && before != after || c.count != nil && c.count(after) != c.count(before)+1 {
			t.Errorf("%s: %+v, before %+v", c.name, after, before)
		}
	}
	r := rand.New(rand.NewPCG(3, 4))
	before := p.counts(t, 1).Accepted
	for range 300 {
		port++
		options := make([]byte, r.IntN(41))
		for i := range options {
			options[i] = byte(r.Uint32())
			if r.IntN(3) == 0 {
				options[i] = []byte{254, 20, 0x57, 0x45, 1, 2, 0, 255}[r.IntN(8)]
			}
		}
		p.sendRaw(t, "tool", syn(netip.AddrPortFrom(p.Endpoint("tool").IPv4, port), netip.MustParseAddrPort("10.87.0.2:80"), uint32(port), options))
		if r.IntN(30) == 0 {
			if line, _ := p.byPort(t, port); line.PeerBy != connection.ByAddress {
				t.Errorf("%x: by %s", options, line.PeerBy)
			}
		}
	}
	if n := p.counts(t, 1).Accepted; n != before {
		t.Errorf("%d of random options were believed", n-before)
	}
	c := p.counts(t, 1)
	forged, unknown, err := p.drivers[1].Disbelieved()
	sum := func(m map[string]uint64) (n uint64) {
		for _, k := range m {
			n += k
		}
		return n
	}
	if err != nil || len(forged) != 3 || sum(forged) != c.WrongTag+c.Replayed+c.NotResident || len(unknown) != 1 || sum(unknown) != c.UnknownHost {
		t.Errorf("%+v are reported as %v and %v, %v", c, forged, unknown, err)
	}
}

// byPort waits for beta's line of a call from a port.
func (p *pair) byPort(t *testing.T, port uint16) (out connection.Line, arrived bool) {
	t.Helper()
	for range 50 {
		err := p.drivers[1].Connections(func(c *connection.Line) bool {
			if c.Direction == policy.Ingress && c.Remote.Port() == port {
				out = *c
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		if out.Workload != "" {
			return out, true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return out, false
}
