package nft_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"weft/agent/datapath/datapathtest"
)

// TestMain is also the process that runs in each place.
func TestMain(m *testing.M) {
	if os.Getenv("WEFT_NFT_PLACE") != "" {
		serve()
		return
	}
	if path := os.Getenv("WEFT_NFT_KILL"); path != "" {
		applyForEver(path)
		return
	}
	datapathtest.Main(m)
}

// ask is what a process in a place is told to do, and answer what came of it.
type ask struct {
	ID       int
	Op       string // listen, probe, keep, send, close
	Protocol string // tcp, udp, icmp
	Addr     string
	Wait     time.Duration
}

type answer struct {
	ID     int
	Result string
}

// serve does what it is told until its input ends.
func serve() {
	var mu sync.Mutex
	kept := map[string]net.Conn{}
	out := json.NewEncoder(os.Stdout)
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	for {
		var a ask
		if in.Decode(&a) != nil {
			return
		}
		go func() {
			var result string
			switch a.Op {
			case "listen":
				result = listen(a.Protocol, a.Addr)
			case "probe":
				result = probe(a.Protocol, a.Addr, a.Wait)
			case "keep":
				c, err := net.DialTimeout(a.Protocol, a.Addr, a.Wait)
				result = outcomeOf(err)
				if err == nil {
					mu.Lock()
					kept[a.Addr] = c
					mu.Unlock()
				}
			case "big":
				result = big(a.Addr, a.Wait)
			case "rate":
				result = rate(a.Addr, a.Wait)
			case "flood":
				result = flood(a.Addr, a.Wait)
			case "send":
				mu.Lock()
				c := kept[a.Addr]
				mu.Unlock()
				result = echo(c, a.Wait)
			}
			mu.Lock()
			defer mu.Unlock()
			out.Encode(answer{a.ID, result})
		}()
	}
}

func listen(protocol, addr string) string {
	if protocol == "udp" {
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err.Error()
		}
		go func() {
			b := make([]byte, 5000)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil && errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					c.WriteTo(b[:n], from)
				}
			}
		}()
		return "ok"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err.Error()
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	return "ok"
}

func outcomeOf(err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ECONNRESET):
		return "rejected"
	case errors.Is(err, syscall.EPERM), errors.As(err, &timeout) && timeout.Timeout():
		return "dropped" // a drop at output is told to the sender
	}
	return err.Error()
}

func probe(protocol, addr string, wait time.Duration) string {
	if protocol == "icmp" {
		return ping(netip.MustParseAddr(addr), wait)
	}
	c, err := net.DialTimeout(protocol, addr, wait)
	if err != nil {
		return outcomeOf(err)
	}
	defer c.Close()
	if protocol == "tcp" {
		c.(*net.TCPConn).SetLinger(0)
	}
	return echo(c, wait)
}

func echo(c net.Conn, wait time.Duration) string {
	c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write([]byte("hello")); err != nil {
		return outcomeOf(err)
	}
	_, err := io.ReadFull(c, make([]byte, 5))
	return outcomeOf(err)
}

// big sends a datagram in fragments and wants it back.
func big(addr string, wait time.Duration) string {
	c, err := net.DialTimeout("udp", addr, wait)
	if err != nil {
		return outcomeOf(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write(make([]byte, 4000)); err != nil {
		return outcomeOf(err)
	}
	b := make([]byte, 5000)
	n, err := c.Read(b)
	if err == nil && n != 4000 {
		return fmt.Sprintf("%d bytes came back", n)
	}
	return outcomeOf(err)
}

// rate counts the datagrams that a second of processor time sends: the machine
// has other things to do.
func rate(addr string, wait time.Duration) string {
	runtime.LockOSThread()
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	used := func() time.Duration {
		var u unix.Rusage
		unix.Getrusage(unix.RUSAGE_THREAD, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	n, start := 0, used()
	for end := time.Now().Add(wait); time.Now().Before(end); {
		for range 100 {
			if _, err := c.Write([]byte("x")); err == nil {
				n++
			}
		}
	}
	return fmt.Sprint(int(float64(n) / (used() - start).Seconds()))
}

// flood sends datagrams without a pause and counts how many come back.
func flood(addr string, wait time.Duration) string {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	end := time.Now().Add(wait)
	sent, got := 0, 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 100)
		c.SetReadDeadline(end.Add(200 * time.Millisecond))
		for {
			if _, err := c.Read(b); err == nil {
				got++
			} else if time.Now().After(end) {
				return
			}
		}
	}()
	for time.Now().Before(end) {
		if _, err := c.Write([]byte("x")); err == nil {
			sent++
		}
		time.Sleep(20 * time.Microsecond)
	}
	<-done
	return fmt.Sprintf("sent %d got %d", sent, got)
}

func ping(to netip.Addr, wait time.Duration) string {
	network, typ, want := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
	protocol := 1
	if to.Is6() {
		network, typ, want, protocol = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
	}
	c, err := icmp.ListenPacket(network, "")
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	id := int(time.Now().UnixNano()>>4) & 0xffff
	b, _ := (&icmp.Message{Type: typ, Body: &icmp.Echo{ID: id, Seq: 1, Data: []byte("x")}}).Marshal(nil)
	if _, err := c.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return outcomeOf(err)
	}
	c.SetReadDeadline(time.Now().Add(wait))
	in := make([]byte, 1500)
	for {
		n, _, err := c.ReadFrom(in)
		if err != nil {
			return outcomeOf(err)
		}
		m, err := icmp.ParseMessage(protocol, in[:n])
		if err != nil {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && m.Type == want && e.ID == id {
			return "ok"
		}
	}
}
