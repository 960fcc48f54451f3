package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"weft/bench/fleet"
	"weft/lab"
)

// onlyDatagrams is what the peers are to look at: not at what they export themselves.
var onlyDatagrams = fmt.Sprintf("udp and dst portrange %d-%d", firstPort, firstPort+sinkPorts-1)

// there says whether programs are on PATH, and on standard error which is not.
func there(programs ...string) bool {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			fmt.Fprintf(os.Stderr, "bench/meter: %s is not on PATH: left out\n", p)
			return false
		}
	}
	return true
}

func (b *bench) peers() (out []meter) {
	if there("softflowd", "nfcapd", "nfdump") {
		out = append(out, b.softflowd())
	}
	if there("pmacctd") {
		out = append(out, b.pmacctd())
	}
	return out
}

// roomForFlows is how many flows softflowd may have, more than there are; pmacctd
// takes four kilobytes for each at once, and writes out what it has where they are
// more.
const (
	roomForFlows = 2_000_000
	pmacctdRoom  = 100_003
)

// softflowd exports to nfcapd on another machine, when it ends.
func (b *bench) softflowd() meter {
	const port = "9995"
	collector := b.fleet.Host("controller")
	var dir string
	var nfcapd *lab.Cmd
	return meter{name: "softflowd", note: "NetFlow 9 to nfcapd", host: b.plain, start: func(ctx context.Context) (cmd *lab.Cmd, err error) {
		if dir, err = os.MkdirTemp(collector.StateDir(), "nfcapd-"); err != nil {
			return nil, err
		}
		nfcapd, err = b.fleet.Start(ctx, collector, "nfcapd", "-w", dir, "-p", port, "-y", "-t", "86400", "-B", "33554432")
		if err != nil {
			return nil, err
		}
		if err := listening(ctx, collector, "-Hlnu", port); err != nil {
			return nil, err
		}
		run := b.plain.StateDir()
		cmd, err = b.fleet.Start(ctx, b.plain, "softflowd", "-d", "-N", "-i", "eth0", "-v", "9", "-m", strconv.Itoa(roomForFlows), "-B", "67108864",
			"-n", collector.Addresses()[0].String()+":"+port, "-p", filepath.Join(run, "softflowd.pid"), "-c", filepath.Join(run, "softflowd.ctl"), onlyDatagrams)
		if err != nil {
			return nil, err
		}
		return cmd, b.sniffing(ctx)
	}, counted: func(ctx context.Context, cmd *lab.Cmd, _ uint64) (uint64, error) {
		time.Sleep(time.Second) // what waits in its ring
		stop(cmd)
		time.Sleep(time.Second) // what waits in nfcapd's socket
		stop(nfcapd)
		defer os.RemoveAll(dir)
		out, err := exec.CommandContext(ctx, "nfdump", "-R", dir, "-I").CombinedOutput()
		m := regexp.MustCompile(`(?m)^Bytes: +(\d+)`).FindSubmatch(out)
		if err != nil || m == nil {
			return 0, fmt.Errorf("nfdump: %w: %s", errors.Join(err, errors.New("it says no number of bytes")), out)
		}
		return strconv.ParseUint(string(m[1]), 10, 64)
	}}
}

// pmacctd writes its table to a file, when it ends.
func (b *bench) pmacctd() meter {
	file := filepath.Join(b.plain.StateDir(), "pmacctd.csv")
	config := filepath.Join(b.plain.StateDir(), "pmacctd.conf")
	return meter{name: "pmacctd", note: "a table in memory, written to a file", host: b.plain, start: func(ctx context.Context) (*lab.Cmd, error) {
		text := "daemonize: false\npromisc: false\npcap_interface: eth0\npcap_filter: " + onlyDatagrams + "\naggregate: src_host,dst_host,src_port,dst_port,proto\nplugins: print\n" +
			"print_output: csv\nprint_output_file: " + file + "\nprint_output_file_append: true\nprint_refresh_time: 86400\nprint_cache_entries: " + strconv.Itoa(pmacctdRoom) +
			"\nplugin_buffer_size: 10240\nplugin_pipe_size: 33554432\n"
		os.Remove(file)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		cmd, err := b.fleet.Start(ctx, b.plain, "pmacctd", "-f", config)
		if err != nil {
			return nil, err
		}
		return cmd, b.sniffing(ctx)
	}, counted: func(ctx context.Context, cmd *lab.Cmd, _ uint64) (uint64, error) {
		time.Sleep(time.Second)
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			return 0, err
		}
		ended(cmd)
		return pmacctdBytes(file)
	}}
}

// pmacctdBytes adds up the last column of a table.
func pmacctdBytes(file string) (total uint64, err error) {
	// A child of the program's writes it.
	err = fleet.Await(20*time.Second, func() error {
		before, err := os.Stat(file)
		if err != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond)
		if after, err := os.Stat(file); err != nil || after.Size() != before.Size() {
			return fmt.Errorf("pmacctd still writes: %w", err)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ",")
		if n, err := strconv.ParseUint(fields[len(fields)-1], 10, 64); err == nil { // not of the headings
			total += n
		}
	}
	return total, lines.Err()
}

// sniffing waits until somebody on the plain machine has a packet socket.
func (b *bench) sniffing(ctx context.Context) error {
	return fleet.Await(10*time.Second, func() error {
		out, err := b.plain.Command(ctx, "ss", "-H0n").CombinedOutput()
		if err == nil && len(strings.TrimSpace(string(out))) == 0 {
			err = errors.New("nobody listens to eth0")
		}
		return err
	})
}

func listening(ctx context.Context, where lab.Runner, flags, port string) error {
	return fleet.Await(10*time.Second, func() error {
		out, err := where.Command(ctx, "ss", flags).CombinedOutput()
		if err == nil && !strings.Contains(string(out), ":"+port+" ") {
			err = fmt.Errorf("nobody listens on port %s", port)
		}
		return err
	})
}
