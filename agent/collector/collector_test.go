package collector

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/wire/flowwire"
)

var (
	now       = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	exporter1 = netip.MustParseAddrPort("192.0.2.1:2055")
	be        = binary.BigEndian
)

// join puts numbers of one, two, four and eight bytes, and bytes, together.
func join(parts ...any) (out []byte) {
	for _, p := range parts {
		switch p := p.(type) {
		case uint8:
			out = append(out, p)
		case uint16:
			out = be.AppendUint16(out, p)
		case uint32:
			out = be.AppendUint32(out, p)
		case uint64:
			out = be.AppendUint64(out, p)
		case []byte:
			out = append(out, p...)
		case string:
			out = append(out, netip.MustParseAddr(p).AsSlice()...)
		default:
			panic(fmt.Sprintf("%T", p))
		}
	}
	return out
}

func u16(n int) uint16 { return uint16(n) }
func u32(n int) uint32 { return uint32(n) }

// netflow5 is a packet of one flow: 10 packets and 1,000 bytes in two seconds.
func netflow5(from, to string, fromPort, toPort int) []byte {
	head := join(u16(5), u16(1), u32(100_000), u32(int(now.Unix())), u32(0), u32(1), uint8(0), uint8(0), u16(0))
	return join(head, from, to, "0.0.0.0", u16(1), u16(2), u32(10), u32(1000), u32(95_000), u32(97_000), u16(fromPort), u16(toPort), uint8(0), uint8(0x1b), uint8(6), uint8(0), u16(0), u16(0), uint8(24), uint8(24), u16(0))
}

// fields are those of a template: number and length.
var fields = [][2]int{{27, 16}, {28, 16}, {7, 2}, {11, 2}, {4, 1}, {2, 8}, {1, 8}}

func templateOf(id int) []byte {
	out := join(u16(id), u16(len(fields)))
	for _, f := range fields {
		out = join(out, u16(f[0]), u16(f[1]))
	}
	return out
}

var data = join("2001:db8::1", "2001:db8::2", u16(40000), u16(443), uint8(6), uint64(7), uint64(7000))

func set(id int, body []byte) []byte { return join(u16(id), u16(4+len(body)), body) }

func netflow9(sets ...[]byte) []byte {
	return join(u16(9), u16(len(sets)), u32(100_000), u32(int(now.Unix())), u32(1), u32(77), slices.Concat(sets...))
}

func ipfix(sets ...[]byte) []byte {
	body := slices.Concat(sets...)
	return join(u16(10), u16(16+len(body)), u32(int(now.Unix())), u32(1), u32(77), body)
}

// sflow5 is one sample of a frame of 1,014 bytes, one in 100.
func sflow5() []byte {
	ip := join(uint8(0x45), uint8(0), u16(1000), u32(0), uint8(64), uint8(17), u16(0), "10.0.0.1", "10.0.0.2", u16(5000), u16(53), u16(980), u16(0))
	frame := join([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}, u16(0x0800), ip)
	frame = append(frame, make([]byte, (4-len(frame)%4)%4)...)
	header := join(u32(1), u32(1014), u32(0), u32(len(frame)), frame)
	record := join(u32(1), u32(len(header)), header)
	sample := join(u32(1), u32(3), u32(100), u32(5000), u32(0), u32(1), u32(2), u32(1), record)
	return join(u32(5), u32(1), "192.0.2.1", u32(0), u32(1), u32(1000), u32(1), u32(1), u32(len(sample)), sample)
}

func TestReports(t *testing.T) {
	for name, c := range map[string]struct {
		datagrams [][]byte
		want      string
	}{
		"netflow 5":            {[][]byte{netflow5("10.0.0.1", "10.0.0.2", 40000, 443)}, "10.0.0.1:40000 -> 10.0.0.2:443 6: 10/1000 0/0 new FSPA/ 2s"},
		"netflow 5, an answer": {[][]byte{netflow5("10.0.0.2", "10.0.0.1", 443, 40000)}, "10.0.0.1:40000 -> 10.0.0.2:443 6: 0/0 10/1000 /FSPA 2s"},
		"netflow 9":            {[][]byte{netflow9(set(0, templateOf(256))), netflow9(set(256, data))}, "[2001:db8::1]:40000 -> [2001:db8::2]:443 6: 7/7000 0/0 new 0s"},
		"ipfix":                {[][]byte{ipfix(set(2, templateOf(300)), set(300, data))}, "[2001:db8::1]:40000 -> [2001:db8::2]:443 6: 7/7000 0/0 new 0s"},
		"sflow":                {[][]byte{sflow5()}, "10.0.0.1:5000 -> 10.0.0.2:53 17: 100/100000 0/0 new 0s"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDecoder()
			for _, b := range c.datagrams {
				if err := d.decode(now, exporter1, b); err != nil {
					t.Fatal(err)
				}
			}
			if len(d.records) != 1 {
				t.Fatalf("%+v", d.records)
			}
			r := d.records[0]
			got := fmt.Sprintf("%s -> %s %d: %d/%d %d/%d", r.Local, r.Remote, r.Protocol, r.Sent.Packets, r.Sent.Bytes, r.Received.Packets, r.Received.Bytes)
			if r.New {
				got += " new"
			}
			if r.SentFlags|r.ReceivedFlags != 0 {
				got += fmt.Sprintf(" %s/%s", r.SentFlags, r.ReceivedFlags)
			}
			if got += " " + r.Last.Sub(r.First).String(); got != c.want || !r.Observed || r.Last.After(now) {
				t.Errorf("%s, want %s: %+v", got, c.want, r)
			}
		})
	}
}

func TestWhatCannotBeRead(t *testing.T) {
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"short":             {[]byte{1}, "too short"},
		"version":           {join(u16(7), u16(0)), "version 7 is none of NetFlow 5 and 9, IPFIX (10) and sFlow 5"},
		"no fields":         {netflow9(set(0, join(u16(256), u16(0)))), "a template with 0 fields"},
		"many fields":       {ipfix(set(2, join(u16(256), u16(257), slices.Repeat(join(u16(1), u16(1)), 257)))), "a template with 257 fields"},
		"empty field":       {ipfix(set(2, join(u16(256), u16(1), u16(1), u16(0)))), "a field of no bytes"},
		"a billion records": {join(u32(5), u32(1), "192.0.2.1", u32(0), u32(1), u32(1000), u32(1), u32(3), u32(44), make([]byte, 40), u32(1<<30)), "1073741824 records in 44 bytes"},
		"no template":       {netflow9(set(256, data)), "exporters send templates now and then"},
		"half a set":        {ipfix(set(2, templateOf(300)))[:30], ""},
	} {
		d := newDecoder()
		if err := d.decode(now, exporter1, c.b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Many exporters with many templates each take no more memory than a few.
func TestMemoryIsBounded(t *testing.T) {
	d := newDecoder()
	for i := range 3 * maxExporters {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)
		if err := d.decode(now, from, ipfix(set(2, templateOf(256)))); err != nil {
			t.Fatal(err)
		}
		if len(d.exporters) > maxExporters {
			t.Fatalf("%d exporters", len(d.exporters))
		}
	}
	for i := range 3 * maxTemplates {
		if err := d.decode(now, exporter1, ipfix(set(2, templateOf(256+i)))); err != nil {
			t.Fatal(err)
		}
	}
	e := d.exporters[exporter1]
	if n := len(e.templates.GetTemplates()); n > maxTemplates || len(e.templates.known) > maxTemplates {
		t.Errorf("%d templates", n)
	}
	for i := range uint32(3 * maxDomains) {
		e.rates.AddSamplingRate(9, i, 10)
	}
	if len(e.rates.by) > maxDomains {
		t.Errorf("%d rates", len(e.rates.by))
	}
}

// Who is not named as an exporter is not believed.
func TestOnlyExportersAreHeard(t *testing.T) {
	records := make(chan []flowwire.Record, 10)
	address := freePort(t)
	c, err := New(Config{Listeners: []Listener{{Address: address, From: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}}}, Deps{Records: func(list []flowwire.Record) { records <- slices.Clone(list) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- c.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	for i, from := range []string{"127.0.0.2:0", "127.0.0.1:0"} { // the stranger first
		conn, err := (&net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))}).DialContext(ctx, "udp", address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(netflow5("10.0.0.1", "10.0.0.2", 40000+i, 443)); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if list := <-records; len(list) != 1 || list[0].Local.Port() != 40001 || list[0].Sent.Bytes != 1000 {
		t.Errorf("%+v", list)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().String()
}

// FuzzDecode: no datagrams do harm.
func FuzzDecode(f *testing.F) {
	f.Add(netflow5("10.0.0.1", "10.0.0.2", 40000, 443), []byte{})
	f.Add(netflow9(set(0, templateOf(256))), netflow9(set(256, data)))
	f.Add(ipfix(set(2, templateOf(300)), set(300, data)), ipfix(set(3, join(u16(301), u16(1), u16(1), u16(149), u16(4)))))
	f.Add(sflow5(), []byte{})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		d := newDecoder()
		for _, b := range [][]byte{first, second, first} {
			d.decode(now, exporter1, b) //nolint:errcheck // errors are as good as none
		}
		for _, r := range d.records {
			if r.First.After(r.Last) || r.Last.After(now) || !r.Local.IsValid() || !r.Remote.IsValid() || r.Sent.Bytes > maxRate*maxCount {
				t.Errorf("%+v", r)
			}
		}
	})
}
