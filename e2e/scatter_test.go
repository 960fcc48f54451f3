package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// sinkPorts is how many ports sink listens on.
const sinkPorts = 1000

// sink receives datagrams on many ports and throws them away.
func sink(ctx context.Context, address, port string) error {
	first, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	if err := manyFiles(); err != nil {
		return err
	}
	ip := net.ParseIP(address)
	for i := range sinkPorts {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: ip, Port: first + i})
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { c.Close() })
		go func() {
			buf := make([]byte, 2048)
			for {
				if _, _, err := c.ReadFrom(buf); err != nil {
					return
				}
			}
		}()
	}
	fmt.Println("ready")
	<-ctx.Done()
	return nil
}

func manyFiles() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// scatter sends one or two datagrams in each of many flows: from as many ports,
// from one on, as are needed to each of a sink's. No more than rate flows begin in
// a second.
func scatter(server, port, flows, rate string) error {
	var n [3]int
	for i, text := range []string{port, flows, rate} {
		var err error
		if n[i], err = strconv.Atoi(text); err != nil {
			return err
		}
	}
	to, err := netip.ParseAddrPort(server)
	if err != nil {
		return err
	}
	if err := manyFiles(); err != nil {
		return err
	}
	var total said
	buf := make([]byte, 1000)
	began := time.Now()
	for source := n[0]; total.Flows < uint64(n[1]); source++ {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: source})
		if err != nil {
			return err
		}
		for i := range min(sinkPorts, n[1]-int(total.Flows)) {
			size := 50 + (source*7+i)%900
			for range 1 + i%2 {
				if _, err := c.WriteToUDPAddrPort(buf[:size], netip.AddrPortFrom(to.Addr(), to.Port()+uint16(i))); err != nil {
					return fmt.Errorf("flow %d: %w", total.Flows, err)
				}
				total.SentPackets, total.SentBytes = total.SentPackets+1, total.SentBytes+uint64(size+ipUDP)
			}
			total.Flows++
		}
		c.Close()
		time.Sleep(time.Until(began.Add(time.Duration(total.Flows) * time.Second / time.Duration(n[2]))))
	}
	return json.NewEncoder(os.Stdout).Encode(total)
}

// inParallel runs functions side by side and waits for all.
func inParallel(run ...func()) {
	var wait sync.WaitGroup
	for _, f := range run {
		wait.Go(f)
	}
	wait.Wait()
}
