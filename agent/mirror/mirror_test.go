package mirror

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/testreq"
	"weft/lab"
	"weft/lab/netns"
	"weft/wire/flowwire"
)

const topology = `apiVersion: weft/v1
kind: Topology
metadata: {name: mirror}
spec:
  switches: [{name: lan, subnet: 10.9.0.0/24}]
  hosts: [{name: sender, attach: lan}, {name: probe, attach: lan}]
`

// datagram is an Ethernet frame of UDP in IPv4, to a machine that is not there.
func datagram(from, to string, payload []byte) []byte {
	f, t := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	b := []byte{2, 9, 9, 9, 9, 1, 2, 9, 9, 9, 9, 2, 8, 0, 0x45, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(28+len(payload)))
	b = append(b, 0, 0, 0, 0, 64, 17, 0, 0)
	b = append(append(b, f.Addr().AsSlice()...), t.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, f.Port()), t.Port())
	b = append(binary.BigEndian.AppendUint16(b, uint16(8+len(payload))), 0, 0)
	return append(b, payload...)
}

// send puts frames on a namespace's first interface.
func send(t *testing.T, ns string, frames ...[]byte) {
	t.Helper()
	if err := netns.Do(ns, func() error {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, f := range frames {
			if err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: htons(unix.ETH_P_ALL)}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// heard runs a mirror on the probe until the counts of what it reports are as
// wanted, and returns what was reported, summed up by flow.
func heard(t *testing.T, probe *lab.Host, unwrap bool, begin func(), packets uint64) map[string]flowwire.Record {
	t.Helper()
	var r *ring
	if err := netns.Do(probe.NetNS(), func() (err error) {
		r, err = openRing("eth0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	records := make(chan []flowwire.Record, 100)
	m, err := New(Config{Active: time.Second}, Deps{Records: func(list []flowwire.Record) { records <- slices.Clone(list) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- m.listen(ctx, r, Interface{Name: "eth0", Unwrap: unwrap}, slog.New(slog.DiscardHandler))
	}()
	begin()
	sums, total := map[string]flowwire.Record{}, uint64(0)
	for deadline := time.After(20 * time.Second); total < packets; {
		select {
		case list := <-records:
			for _, x := range list {
				if !x.Observed || x.Workload != "" {
					t.Errorf("%+v", x)
				}
				if x.Protocol != 17 || x.Local.Port() == 0 {
					continue // the lab's own
				}
				key := fmt.Sprintf("%s -> %s", x.Local, x.Remote)
				was := sums[key]
				x.Sent.Packets, x.Sent.Bytes = x.Sent.Packets+was.Sent.Packets, x.Sent.Bytes+was.Sent.Bytes
				x.Received.Packets, x.Received.Bytes = x.Received.Packets+was.Received.Packets, x.Received.Bytes+was.Received.Bytes
				total += x.Sent.Packets + x.Received.Packets - was.Sent.Packets - was.Received.Packets
				x.Name = cmp.Or(x.Name, was.Name)
				sums[key] = x
			}
		case err := <-done:
			t.Fatalf("the mirror ended: %v", err)
		case <-deadline:
			t.Fatalf("%d packets of %d: %+v", total, packets, sums)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
	return sums
}

func up(t *testing.T) *lab.Lab {
	t.Helper()
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.Cgroup2)
	topo, err := lab.Parse("mirror.yaml", []byte(topology))
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Up(t.Context(), topo, lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// answer is a DNS answer: shop.example is 10.1.0.2.
var answer = []byte("\x00\x01\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x04shop\x07example\x00\x00\x01\x00\x01\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x01\x00\x02")

// Frames for others are heard, all of them, and known by the name that was asked for.
func TestPromiscuousMirror(t *testing.T) {
	l := up(t)
	const n = 20_000
	frames := [][]byte{datagram("10.1.0.53:53", "10.1.0.1:4000", answer)}
	for i := range n {
		frames = append(frames, datagram(fmt.Sprintf("10.1.0.1:%d", 5000+i%100), "10.1.0.2:9000", make([]byte, 100+i%1000)))
	}
	got := heard(t, l.Host("probe"), false, func() { send(t, l.Host("sender").NetNS(), frames...) }, n+1)
	if len(got) != 101 {
		t.Errorf("%d flows", len(got))
	}
	var bytes uint64
	for key, x := range got {
		if x.Remote.Port() != 9000 {
			continue
		}
		if bytes += x.Sent.Bytes; x.Sent.Packets != n/100 || x.Name != "shop.example" {
			t.Errorf("%s: %+v", key, x)
		}
	}
	if want := uint64(n*128 + n/1000*(999*1000/2)); bytes != want {
		t.Errorf("%d bytes, want %d", bytes, want)
	}
}

// What a cloud's mirror carries in VXLAN is metered, and not the tunnel.
func TestMirrorInATunnel(t *testing.T) {
	l := up(t)
	inner := datagram("172.16.0.1:5000", "172.16.0.2:53", []byte("question"))
	outer := datagram("10.9.0.200:5000", l.Host("probe").Addresses()[0].String()+":4789", append([]byte{8, 0, 0, 0, 0, 0, 7, 0}, inner...))
	copy(outer, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	got := heard(t, l.Host("probe"), true, func() { send(t, l.Host("sender").NetNS(), outer, outer, outer) }, 3)
	if x, ok := got["172.16.0.1:5000 -> 172.16.0.2:53"]; !ok || x.Sent != (flowwire.Count{Packets: 3, Bytes: 3 * 36}) {
		t.Errorf("%+v", got)
	}
}

func TestInterfaceThatIsNotThere(t *testing.T) {
	if _, err := openRing("weft-none"); err == nil || !strings.Contains(err.Error(), "find interface weft-none") {
		t.Error(err)
	}
}
