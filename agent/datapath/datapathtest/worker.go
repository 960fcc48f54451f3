package datapathtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// workerEnv is set in the environment of an endpoint's process.
const workerEnv = "WEFT_DATAPATHTEST_WORKER"

// Main is for TestMain: it runs the tests, or is an endpoint.
func Main(m *testing.M) {
	if os.Getenv(workerEnv) != "" {
		work()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// order is what an endpoint is told to do; report is what came of it.
type order struct {
	ID      int
	Do      string // listen, dial, talk, close, ping, lookup, sneak
	Network string // tcp, udp or mptcp; the name to look up
	Address string
	Timeout time.Duration
	Handle  int // of a connection dialled earlier
}

type report struct {
	ID      int
	Outcome Outcome
	Handle  int
	Error   string
}

// Outcome is what became of an attempt.
type Outcome string

// The outcomes.
const (
	Allowed  Outcome = "allowed"
	Denied   Outcome = "denied"   // no answer within the time
	Rejected Outcome = "rejected" // refused at once
)

// work is the life of an endpoint: orders on standard input, reports on standard
// output, until the input ends.
func work() {
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	w := worker{held: map[int]net.Conn{}}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		go func() {
			r := w.obey(o)
			r.ID = o.ID
			mu.Lock()
			defer mu.Unlock()
			out.Encode(r)
		}()
	}
}

type worker struct {
	mu   sync.Mutex
	held map[int]net.Conn
	last int
}

func (w *worker) obey(o order) report {
	switch o.Do {
	case "listen":
		if err := serve(o.Network, o.Address); err != nil {
			return report{Error: err.Error()}
		}
		return report{Outcome: Allowed}
	case "ping":
		if err := ping(o.Address, o.Timeout); err != nil {
			return report{Outcome: outcome(err), Error: err.Error()}
		}
		return report{Outcome: Allowed}
	case "lookup":
		if err := ask(o.Network, o.Address, o.Timeout); err != nil {
			return report{Outcome: outcome(err), Error: err.Error()}
		}
		return report{Outcome: Allowed}
	case "sneak":
		if err := sneak(o.Address, o.Timeout); err != nil {
			return report{Outcome: outcome(err), Error: err.Error()}
		}
		return report{Outcome: Allowed}
	case "dial":
		c, err := dial(o)
		if err != nil {
			return report{Outcome: outcome(err), Error: err.Error()}
		}
		if err := talk(c, o.Timeout); err != nil {
			c.Close()
			return report{Outcome: outcome(err), Error: err.Error()}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.last++
		w.held[w.last] = c
		return report{Outcome: Allowed, Handle: w.last}
	}
	w.mu.Lock()
	c := w.held[o.Handle]
	w.mu.Unlock()
	if c == nil {
		return report{Error: "no such connection"}
	}
	if o.Do == "close" {
		c.Close()
		return report{Outcome: Allowed}
	}
	if err := talk(c, o.Timeout); err != nil {
		return report{Outcome: outcome(err), Error: err.Error()}
	}
	return report{Outcome: Allowed}
}

// dial calls an address; network mptcp is TCP over as many paths as there are.
func dial(o order) (net.Conn, error) {
	d := net.Dialer{Timeout: o.Timeout}
	if o.Network == "mptcp" {
		d.SetMultipathTCP(true)
		o.Network = "tcp"
	}
	return d.Dial(o.Network, o.Address)
}

func outcome(err error) Outcome {
	for _, e := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.EACCES} {
		if errors.Is(err, e) {
			return Rejected
		}
	}
	return Denied
}

// talk sends a few bytes and waits for them to come back.
func talk(c net.Conn, timeout time.Duration) error {
	c.SetDeadline(time.Now().Add(timeout))
	if _, err := c.Write([]byte("warp")); err != nil {
		return err
	}
	var buf [4]byte
	n, err := c.Read(buf[:])
	if err == nil && string(buf[:n]) != "warp" {
		return fmt.Errorf("read %q", buf[:n])
	}
	return err
}

// serve answers whatever comes with the same bytes.
func serve(network, address string) error {
	if network == "udp" {
		p, err := net.ListenPacket(network, address)
		if err != nil {
			return err
		}
		go func() {
			buf := make([]byte, 2048)
			for {
				n, from, err := p.ReadFrom(buf)
				if err != nil {
					continue
				}
				p.WriteTo(resolve(buf[:n]), from)
			}
		}()
		return nil
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 2048)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					c.Write(buf[:n])
				}
			}()
		}
	}()
	return nil
}
