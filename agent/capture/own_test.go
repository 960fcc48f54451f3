package capture_test

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// echo answers every connection in the namespace with what it sends.
func echo(t testing.TB, n namespace, address string) {
	t.Helper()
	var l net.Listener
	n.do(t, func() {
		var err error
		if l, err = net.Listen("tcp", address); err != nil {
			t.Fatal(err)
		}
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
}

// say exchanges rounds of a few bytes, each at least two frames.
func say(t testing.TB, conn net.Conn, rounds int) {
	t.Helper()
	buf := make([]byte, 5)
	for range rounds {
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, buf); err != nil {
			t.Fatal(err)
		}
	}
}

// A tap of the machine leaves the agent's own connections out, by IPv4 and IPv6,
// until they are closed; other connections to the same place are tapped.
func TestOwnConnectionsAreNotTapped(t *testing.T) {
	need(t)
	line := captureLine("uid/host", "host")
	line.Filter, line.FilterEthernet = "tcp", filter(t, "tcp")
	w, _, c, remove := setup(t, line)
	for _, address := range []string{"10.8.0.2:7001", "[fd08::2]:7001"} {
		echo(t, w.outside, address)
		dial := func() (conn net.Conn) {
			w.host.do(t, func() {
				var err error
				if conn, err = net.Dial("tcp", address); err != nil {
					t.Error(err)
				}
			})
			return conn
		}
		seen := func() uint64 { return quiet(t, c, "uid/host").Seen.Packets }

		theirs := dial()
		raw := dial()
		raw.(*net.TCPConn).SetLinger(0) // so that its port is free once it is closed
		own := c.Own(raw)
		hushFor(t, c, 300*time.Millisecond)
		before := seen()
		say(t, own, 20)
		if n := seen() - before; n != 0 {
			t.Errorf("%s: %d frames of an own connection are tapped", address, n)
		}
		say(t, theirs, 20)
		between := seen()
		if n := between - before; n < 40 {
			t.Errorf("%s: %d frames of another's connection are tapped, want 40 at least", address, n)
		}
		// A connection is forgotten once closed: its port may be another's next.
		local := own.LocalAddr()
		own.Close()
		var again net.Conn
		w.host.do(t, func() {
			var err error
			if again, err = (&net.Dialer{LocalAddr: local}).Dial("tcp", address); err != nil {
				t.Error(err)
			}
		})
		if again != nil {
			say(t, again, 20)
			if n := seen() - between; n < 40 {
				t.Errorf("%s: %d frames are tapped from a port that was ours once, want 40 at least", address, n)
			}
			again.Close()
		}
		theirs.Close()
	}
	remove()
}
