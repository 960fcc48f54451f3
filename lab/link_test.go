package lab_test

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"weft/lab"
	"weft/lab/netns"
	"weft/lab/topology"
)

const twoHosts = "  switches: [{name: lan}]\n  hosts: [{name: a, attach: lan}, {name: b, attach: lan}]\n"

func impair(t *testing.T, l *lab.Lab, i lab.Impairment) {
	t.Helper()
	if err := l.SetLink("a", i); err != nil {
		t.Fatal(err)
	}
}

func ms(n int) topology.Duration { return topology.Duration(time.Duration(n) * time.Millisecond) }

// blast sends n numbered datagrams of the given size from a to b and returns
// those that arrive and when, since the first was sent.
func blast(t *testing.T, l *lab.Lab, n, size int, gap time.Duration) (numbers []uint32, times []time.Duration) {
	t.Helper()
	from, to := udp(t, l.Host("a"), 0), udp(t, l.Host("b"), 0)
	to.SetReadBuffer(8 << 20)
	dst := addrPort(l.Host("b"), to.LocalAddr().(*net.UDPAddr).Port)
	// Resolve the neighbour first: what waits for ARP is kept or lost apart.
	for tries := 0; ; tries++ {
		if tries == 20 {
			t.Fatal("nothing arrives")
		}
		send(t, from, dst, "x")
		if got, _ := receive(t, to, 200*time.Millisecond); got != "" {
			break
		}
	}
	began := time.Now()
	go func() {
		buf := make([]byte, size)
		for i := range n {
			binary.BigEndian.PutUint32(buf, uint32(i))
			from.WriteToUDPAddrPort(buf, dst)
			time.Sleep(gap)
		}
	}()
	for {
		buf := make([]byte, size)
		to.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		k, _, err := to.ReadFromUDPAddrPort(buf)
		if err != nil {
			return numbers, times
		}
		if k == size {
			numbers = append(numbers, binary.BigEndian.Uint32(buf))
			times = append(times, time.Since(began))
		}
	}
}

func TestLinkDelays(t *testing.T) {
	need(t)
	l := up(t, "  switches: [{name: lan}]\n  hosts: [{name: a, attach: {switch: lan, delay: 25ms}}, {name: b, attach: lan}]\n")
	sh(t, l.Host("a"), "ping -c1 -W2 b") // learn the neighbour
	got := rtt(t, l)
	if got < 50*time.Millisecond || got > 90*time.Millisecond {
		t.Errorf("round trip with 25 ms each way: %s", got)
	}
	impair(t, l, lab.Impairment{Delay: ms(5), Jitter: ms(5)})
	if got := rtt(t, l); got > 45*time.Millisecond {
		t.Errorf("round trip with 5 ms each way: %s", got)
	}
	impair(t, l, lab.Impairment{})
	if got := rtt(t, l); got > 9*time.Millisecond {
		t.Errorf("round trip of a perfect link: %s", got)
	}
}

// rtt is the best of a few round trips, so that a busy machine does no harm.
func rtt(t *testing.T, l *lab.Lab) time.Duration {
	t.Helper()
	a, b := udp(t, l.Host("a"), 0), udp(t, l.Host("b"), 0)
	best := time.Hour
	for range 20 {
		began := time.Now()
		send(t, a, addrPort(l.Host("b"), b.LocalAddr().(*net.UDPAddr).Port), "ping")
		_, from := receive(t, b, soon)
		if !from.IsValid() {
			t.Fatal("nothing arrives")
		}
		send(t, b, from, "pong")
		receive(t, a, soon)
		best = min(best, time.Since(began))
	}
	return best
}

func TestLinkLoses(t *testing.T) {
	need(t)
	l := up(t, twoHosts)
	impair(t, l, lab.Impairment{Loss: 0.2, Seed: 11})
	const n = 2000
	got, _ := blast(t, l, n, 100, 20*time.Microsecond)
	// 400 lost, standard deviation 18.
	if lost := n - len(got); lost < 310 || lost > 490 {
		t.Errorf("lost %d of %d at 20%%", lost, n)
	}
	out, _, err := l.LinkCounters("a")
	if err != nil || out.Lost == 0 || out.In != out.Out+out.Lost+out.Full+out.TooBig+out.Failed {
		t.Errorf("counters %+v: %v", out, err)
	}
}

func TestLinkReorders(t *testing.T) {
	need(t)
	l := up(t, twoHosts)
	impair(t, l, lab.Impairment{Delay: ms(20), Reorder: 0.1, Seed: 5})
	const n = 500
	got, _ := blast(t, l, n, 100, 200*time.Microsecond)
	if len(got) != n {
		t.Errorf("%d of %d arrived", len(got), n)
	}
	late := 0
	for i := 1; i < len(got); i++ {
		if got[i] < got[i-1] {
			late++
		}
	}
	if late < 15 || late > 100 {
		t.Errorf("%d of %d came after a later one at 10%%", late, n)
	}
	impair(t, l, lab.Impairment{Delay: ms(5), Jitter: ms(5), Seed: 5})
	got, _ = blast(t, l, n, 100, 200*time.Microsecond)
	for i := 1; i < len(got); i++ {
		if got[i] < got[i-1] {
			t.Fatalf("jitter alone put %d after %d", got[i], got[i-1])
		}
	}
}

func TestLinkLimitsTheRate(t *testing.T) {
	need(t)
	l := up(t, twoHosts)
	impair(t, l, lab.Impairment{Rate: 10_000_000})
	// 100 frames of 1,042 bytes at 10 Mbit/s take 83 ms.
	got, times := blast(t, l, 100, 1000, 0)
	if len(got) != 100 {
		t.Fatalf("%d of 100 arrived", len(got))
	}
	if took := times[99]; took < 75*time.Millisecond || took > 400*time.Millisecond {
		t.Errorf("100 frames took %s, want 83 ms", took)
	}
}

func TestLinkCarriesTCPWithoutSuperFrames(t *testing.T) {
	need(t)
	l := up(t, "  switches: [{name: lan}]\n  hosts: [{name: a, attach: {switch: lan, delay: 1ms, mtu: 1400}}, {name: b, attach: {switch: lan, mtu: 1400}}]\n")
	// A stream in each direction: what a host sends whole must not be cut off.
	for _, pair := range [][2]string{{"a", "b"}, {"b", "a"}} {
		server, client := l.Host(pair[0]), l.Host(pair[1])
		total := stream(t, server, client, 4<<20)
		if total != 4<<20 {
			t.Errorf("%s to %s: %d bytes arrived", pair[1], pair[0], total)
		}
	}
	out, in, err := l.LinkCounters("a")
	if err != nil || out.TooBig+in.TooBig > 0 || out.In < 3000 {
		t.Errorf("counters %+v %+v: %v", out, in, err)
	}
	if got := sh(t, l.Host("a"), "ping -c1 -W1 -M do -s 1372 b >/dev/null && echo fits; ping -c1 -W1 -M do -s 1373 b >/dev/null 2>&1 || echo refused"); got != "fits\nrefused" {
		t.Errorf("MTU: %s", got)
	}
}

func TestCutAndHeal(t *testing.T) {
	need(t)
	l := up(t, twoHosts)
	for _, i := range []lab.Impairment{{}, {Delay: ms(1)}} {
		impair(t, l, i)
		sh(t, l.Host("a"), "ping -c1 -W2 b")
		if err := l.Cut("a@lan"); err != nil {
			t.Fatal(err)
		}
		if got := sh(t, l.Host("a"), "ping -c1 -W1 b >/dev/null || echo silent; cat /sys/class/net/eth0/carrier"); got != "silent\n1" {
			t.Errorf("cut with %q: %s", i, got)
		}
		if err := l.Heal("a@lan"); err != nil {
			t.Fatal(err)
		}
		sh(t, l.Host("a"), "ping -c1 -W2 b")
	}
	if err := l.Cut("nothing"); err == nil {
		t.Error("a link that is not there is cut")
	}
}

// stream sends n bytes over TCP from one host to another and returns how many
// arrive.
func stream(t *testing.T, server, client *lab.Host, n int) int64 {
	t.Helper()
	var ln net.Listener
	err := netns.Do(server.NetNS(), func() (err error) {
		ln, err = net.Listen("tcp4", "0.0.0.0:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := make(chan int64, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			got <- -1
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		k, _ := io.Copy(io.Discard, c)
		got <- k
	}()
	var c net.Conn
	err = netns.Do(client.NetNS(), func() (err error) {
		c, err = net.DialTimeout("tcp4", addrPort(server, ln.Addr().(*net.TCPAddr).Port).String(), 5*time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.Write(make([]byte, n))
	c.Close()
	return <-got
}
