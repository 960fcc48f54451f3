package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"weft/bench/result"
)

// nfdump is the peer: nfcapd takes the same flows as NetFlow 5, compressed on disk
// with LZ4, and nfdump is asked what it can be. A flow of NetFlow 5 has addresses,
// ports, times and amounts, and nothing of who, where and by which rule.
func nfdump(ctx context.Context, series *result.Series, dir string, flows, runs int) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := l.LocalAddr().(*net.UDPAddr).Port
	l.Close()
	cmd := exec.CommandContext(ctx, "nfcapd", "-w", dir, "-b", "127.0.0.1", "-p", strconv.Itoa(port), "-y", "-t", "86400")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start nfcapd: %w", err)
	}
	ended := false
	defer func() {
		if !ended {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}()
	conn, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer conn.Close()
	began := time.Now()
	for waiting(port) < 0 {
		if time.Since(began) > 10*time.Second {
			return errors.New("nfcapd does not listen")
		}
		time.Sleep(10 * time.Millisecond)
	}
	f := newFleet(1)
	packet := make([]byte, 0, 1500)
	for given, packets := 0, 0; given < flows; packets++ {
		n := min(30, flows-given)
		packet = f.netflow(packet[:0], n, given)
		if _, err := conn.Write(packet); err != nil {
			return fmt.Errorf("send NetFlow: %w", err)
		}
		if given += n; packets%16 == 0 {
			for waiting(port) > 32<<10 { // it is not to lose any
				time.Sleep(50 * time.Microsecond)
			}
		}
	}
	for waiting(port) > 0 {
		time.Sleep(time.Millisecond)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	err = cmd.Wait()
	ended = true
	if err != nil {
		return fmt.Errorf("nfcapd: %w", err)
	}
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	kept, err := nfdumpCount(ctx, dir)
	if err != nil {
		return err
	}
	series.Add("F3", ingested, "nfcapd", "flows/CPU-s", float64(flows)/used.Seconds())
	if kept != flows {
		series.Note("F3", ingested, "nfcapd", "flows/CPU-s", fmt.Sprintf("lost %d of %d", flows-kept, flows))
	}
	size, err := bytesIn(dir)
	if err != nil {
		return err
	}
	series.Add("F4", perFlow, "nfcapd", "bytes", float64(size)/float64(max(kept, 1)))
	for range runs {
		for name, by := range map[string]string{"top 10 clients": "srcip/bytes", "top 10 conversations": "record/bytes"} {
			began := time.Now()
			args := []string{"-R", dir, "-q", "-n", "10", "-s", by}
			if by == "record/bytes" {
				args = append(args, "-A", "srcip,dstip,dstport")
			}
			if out, err := exec.CommandContext(ctx, "nfdump", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("nfdump: %w: %s", err, out)
			}
			series.Add("F4", question(name, fromReports, flows), "nfdump", "ms", float64(time.Since(began).Microseconds())/1000)
		}
	}
	return nil
}

var totalFlows = regexp.MustCompile(`total flows: (\d+)`)

func nfdumpCount(ctx context.Context, dir string) (int, error) {
	out, err := exec.CommandContext(ctx, "nfdump", "-R", dir, "-n", "1", "-s", "proto").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("nfdump: %w: %s", err, out)
	}
	m := totalFlows.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("nfdump does not say how many flows there are: %s", out)
	}
	return strconv.Atoi(string(m[1]))
}

// waiting is how many bytes wait at a port; -1 where nobody listens.
func waiting(port int) int {
	text, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(text)) {
		w := strings.Fields(line)
		if len(w) > 4 && w[1] == fmt.Sprintf("0100007F:%04X", port) {
			_, rx, _ := strings.Cut(w[4], ":")
			n, _ := strconv.ParseInt(rx, 16, 64)
			return int(n)
		}
	}
	return -1
}

// netflow writes a packet of NetFlow 5 with so many flows.
func (f *fleet) netflow(b []byte, n, sequence int) []byte {
	u16, u32 := binary.BigEndian.AppendUint16, binary.BigEndian.AppendUint32
	const uptime = 1 << 30 // ms
	b = u16(u16(b, 5), uint16(n))
	b = u32(u32(u32(u32(b, uptime), uint32(now.Unix())), 0), uint32(sequence))
	b = u32(b, 0)
	for range n {
		r := f.record(f.IntN(hostCount), now)
		client, server := r.Local, r.Remote
		if !r.Egress {
			client, server = server, client
		}
		a, z := client.Addr().As4(), server.Addr().As4()
		b = append(append(b, a[:]...), z[:]...)
		b = u32(b, 0)       // next hop
		b = u32(b, 1<<16|2) // interfaces
		b = u32(u32(b, uint32(r.Sent.Packets)), uint32(r.Sent.Bytes))
		b = u32(b, uptime-uint32(now.Sub(r.First).Milliseconds()))
		b = u32(b, uptime-uint32(now.Sub(r.Last).Milliseconds()))
		b = u16(u16(b, client.Port()), server.Port())
		b = append(b, 0, 0x1b, r.Protocol, 0) // flags
		b = append(b, make([]byte, 8)...)     // AS, masks
	}
	return b
}

func bytesIn(dir string) (total int64, err error) {
	err = filepath.Walk(dir, func(_ string, i os.FileInfo, err error) error {
		if errors.Is(err, os.ErrNotExist) { // merged away meanwhile
			return nil
		}
		if err == nil && !i.IsDir() {
			total += i.Size()
		}
		return err
	})
	return total, err
}
