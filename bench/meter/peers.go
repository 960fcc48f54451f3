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
	if there("softflowd", "ping") {
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

// softflowd is asked for its own statistics: an export of all flows at once would
// mostly measure who receives it. libpcap hands packets to it by the block, and the
// last block only once it is full: echo requests fill it, which are told apart.
func (b *bench) softflowd() meter {
	socket := filepath.Join(b.plain.StateDir(), "softflowd.ctl")
	control := func(ctx context.Context, what string) ([]byte, error) {
		out, err := b.plain.Command(ctx, "softflowctl", "-c", socket, what).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("softflowctl %s: %w: %s", what, err, out)
		}
		return out, err
	}
	return meter{name: "softflowd", note: "by its own statistics; it exports nothing", host: b.plain, start: func(ctx context.Context) (*lab.Cmd, error) {
		os.Remove(socket)
		cmd, err := b.fleet.Start(ctx, b.plain, "softflowd", "-d", "-N", "-i", "eth0", "-m", strconv.Itoa(roomForFlows), "-B", "33554432",
			"-p", filepath.Join(b.plain.StateDir(), "softflowd.pid"), "-c", socket, "("+onlyDatagrams+") or icmp")
		if err != nil {
			return nil, err
		}
		return cmd, b.says("softflowd", "starting data collection")
	}, counted: func(ctx context.Context, _ *lab.Cmd, _ uint64) (uint64, error) {
		if out, err := b.plain.Command(ctx, "ping", "-q", "-f", "-c", "3000", b.sinkAddress()).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("ping: %w: %s", err, out)
		}
		time.Sleep(time.Second)                               // until it has read them
		if _, err := control(ctx, "expire-all"); err != nil { // its statistics are of flows that are over
			return 0, err
		}
		out, err := control(ctx, "statistics")
		if err != nil {
			return 0, err
		}
		m := datagramBytes.FindSubmatch(out)
		if m == nil {
			return 0, nil
		}
		return strconv.ParseUint(string(m[1]), 10, 64)
	}}
}

var datagramBytes = regexp.MustCompile(`udp \(17\): +(\d+)`)

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
		return cmd, b.says("pmacctd", "cache entries=")
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

// says waits until a program on the plain machine has said that it is ready: it has
// its socket before that, and loses what comes in between.
func (b *bench) says(program, words string) error {
	return fleet.Await(10*time.Second, func() error {
		text, err := os.ReadFile(filepath.Join(b.plain.StateDir(), program+".log"))
		if err == nil && !strings.Contains(string(text), words) {
			err = fmt.Errorf("%s is not ready: %s", program, text)
		}
		return err
	})
}
