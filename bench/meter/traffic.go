package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"weft/lab"
	"weft/lab/netns"
)

// roles are what this program is on a machine of the lab.
var roles = map[string]func(args []string) error{"receive": receive, "scatter": scatter, "hold": hold, "connect": connect}

const (
	sinkPorts = 1000
	firstPort = 7000
	// callPort is where connections go.
	callPort = 8100
	// perSecond is how many flows begin in a second, at most.
	perSecond = 10_000
	ipUDP     = 28
)

// sent is what a generator says it has done.
type sent struct{ Flows, Datagrams, Bytes uint64 }

// receive has sockets for datagrams, which fill and then throw away without a word,
// and answers connections.
func receive([]string) error {
	if err := manyFiles(); err != nil {
		return err
	}
	for i := range sinkPorts {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: firstPort + i})
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetReadBuffer(0); err != nil { // the least there is
			return err
		}
	}
	l, err := net.Listen("tcp4", fmt.Sprintf(":%d", callPort))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			io.Copy(c, c) //nolint:errcheck // whoever called has it back, or has gone
		}()
	}
}

func manyFiles() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

func numbers(args []string, into ...*int) error {
	for i, n := range into {
		var err error
		if *n, err = strconv.Atoi(args[i]); err != nil {
			return err
		}
	}
	return nil
}

// scatter sends one or two datagrams in each of many flows: from as many ports, from
// one on, as are needed to each of the sink's. No more than so many flows begin in a
// second.
func scatter(args []string) error {
	to, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	var source, flows, rate int
	if err := numbers(args[1:], &source, &flows, &rate); err != nil {
		return err
	}
	var total sent
	buf := make([]byte, 1000)
	began := time.Now()
	for ; int(total.Flows) < flows; source++ {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: source})
		if err != nil {
			return err
		}
		for i := range min(sinkPorts, flows-int(total.Flows)) {
			size := 50 + (source*7+i)%900
			for range 1 + i%2 {
				if _, err := c.WriteToUDPAddrPort(buf[:size], netip.AddrPortFrom(to.Addr(), to.Port()+uint16(i))); err != nil {
					return fmt.Errorf("flow %d: %w", total.Flows, err)
				}
				total.Datagrams, total.Bytes = total.Datagrams+1, total.Bytes+uint64(size+ipUDP)
			}
			if total.Flows++; i%100 == 99 { // never many at once: nobody's queue is to be measured
				time.Sleep(time.Until(began.Add(time.Duration(total.Flows) * time.Second / time.Duration(rate))))
			}
		}
		c.Close()
	}
	return json.NewEncoder(os.Stdout).Encode(total)
}

// hold sends a datagram in each of many flows, again and again, spread over the time
// between; after each round it says so.
func hold(args []string) error {
	to, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	every, err := time.ParseDuration(args[3])
	if err != nil {
		return err
	}
	var source, flows, rounds int
	if err := errors.Join(numbers(args[1:], &source, &flows), numbers(args[4:], &rounds)); err != nil {
		return err
	}
	sockets := make([]*net.UDPConn, (flows+sinkPorts-1)/sinkPorts)
	for i := range sockets {
		if sockets[i], err = net.ListenUDP("udp4", &net.UDPAddr{Port: source + i}); err != nil {
			return err
		}
		defer sockets[i].Close()
	}
	buf := make([]byte, 100)
	began := time.Now()
	for round := range rounds {
		for n := range flows {
			if _, err := sockets[n/sinkPorts].WriteToUDPAddrPort(buf, netip.AddrPortFrom(to.Addr(), to.Port()+uint16(n%sinkPorts))); err != nil {
				return fmt.Errorf("flow %d: %w", n, err)
			}
			if n%100 == 99 {
				time.Sleep(time.Until(began.Add(every*time.Duration(round) + every*time.Duration(n)/time.Duration(flows))))
			}
		}
		time.Sleep(time.Until(began.Add(every * time.Duration(round+1))))
		fmt.Println("round", round)
	}
	return nil
}

// callers is how many connections a program has at a time.
const callers = 8

// lives is how long every other connection is open; the rest are closed at once.
const lives = 50 * time.Millisecond

// connect makes short connections, each of which sends something and gets it back.
func connect(args []string) error {
	var n int
	if err := numbers(args[1:], &n); err != nil {
		return err
	}
	var all sync.WaitGroup
	failed := make(chan error, callers)
	for k := range callers {
		all.Go(func() {
			buf := make([]byte, 200)
			for i := k; i < n; i += callers {
				c, err := net.DialTimeout("tcp4", args[0], 10*time.Second)
				if err == nil {
					_, err = c.Write(buf)
				}
				if err == nil {
					_, err = io.ReadFull(c, buf)
				}
				if err != nil {
					failed <- fmt.Errorf("connection %d: %w", i, err)
					return
				}
				if i/callers%2 == 0 {
					time.Sleep(lives)
				}
				c.Close()
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return json.NewEncoder(os.Stdout).Encode(sent{Flows: uint64(n)})
	}
}

// receive starts the sink's program.
func (b *bench) receive(ctx context.Context) (end func(), err error) {
	cmd := b.sink.Command(ctx, b.self, "receive")
	said, err := started(cmd)
	if err != nil {
		return nil, err
	}
	if _, err := said.ReadString('\n'); err != nil {
		stop(cmd)
		return nil, fmt.Errorf("the sink does not listen: %w", err)
	}
	return func() { stop(cmd) }, nil
}

// send runs a generator to its end.
func (b *bench) send(ctx context.Context, where lab.Runner, role string, args ...string) (s sent, err error) {
	return generated(where.Command(ctx, append([]string{b.self, role}, args...)...))
}

func generated(cmd *lab.Cmd) (s sent, err error) {
	said, err := started(cmd)
	if err != nil {
		return s, err
	}
	err = json.NewDecoder(said).Decode(&s)
	return s, errors.Join(err, cmd.Wait())
}

// started starts a program of ours, of which the output is read.
func started(cmd *lab.Cmd) (*bufio.Reader, error) {
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return bufio.NewReader(out), nil
}

// stop ends a program, where there is one that has not ended.
func stop(cmd *lab.Cmd) {
	if cmd != nil && cmd.ProcessState == nil {
		cmd.Process.Signal(syscall.SIGTERM)
		ended(cmd)
	}
}

// ended waits for a program that was told to end, and ends one that does not.
func ended(cmd *lab.Cmd) {
	late := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	defer late.Stop()
	cmd.Wait()
}

// bytesOf is what a machine's interface has carried, both ways.
func bytesOf(h *lab.Host) (total float64, err error) {
	err = netns.Do(h.NetNS(), func() error {
		text, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			name, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
			if f := strings.Fields(rest); name == "eth0" && len(f) > 8 {
				in, err1 := strconv.ParseFloat(f[0], 64)
				out, err2 := strconv.ParseFloat(f[8], 64)
				total = in + out
				return errors.Join(err1, err2)
			}
		}
		return fmt.Errorf("%s has no eth0", h.Name)
	})
	return total, err
}
