package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"weft/internal/testreq"
)

// The ways to say whose packets, and how much of them.
func TestCaptureChooses(t *testing.T) {
	testreq.Need(t, "tshark")
	f := newFleetFor(t, talkers, 150*time.Second)
	f.controller()
	f.agents("left", "right")
	left, one, two := f.lab.Host("left"), f.lab.Host("right").Container("one"), f.lab.Host("right").Container("two")
	f.helper("left-answer", "answer", left, ":7000")
	target := fmt.Sprint(left.Addresses()[0], ":7000")
	f.applied("apiVersion: weft/v1\nkind: Group\nmetadata: {name: ones}\nspec: {selector: app=one}\n---\napiVersion: weft/v1\nkind: Group\nmetadata: {name: private}\nspec: {selector: app=two, flows: \"Off\"}\n")
	done := func(cmd *exec.Cmd, errs *strings.Builder) {
		t.Helper()
		cmd.Process.Signal(syscall.SIGINT)
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v: %s", err, errs)
		}
	}
	// lengths are interface, kept and whole length of each packet.
	lengths := func(file string) (out [][3]string) {
		t.Helper()
		text, err := exec.CommandContext(f.ctx, "tshark", "-r", file, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.cap_len", "-e", "frame.len").Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			p := strings.Split(strings.TrimSpace(line), "\t")
			out = append(out, [3]string{p[0], p[1], p[2]})
		}
		return out
	}
	talk := func(port string) uint64 {
		s := f.generate(one, "ask", target, port, "30")
		f.generate(two, "ask", target, port, "20")
		return s.SentPackets + s.ReceivedPackets
	}

	file, cmd, errs := f.capturing("group", "--group", "ones", "--snaplen", "64", "--filter", "udp port 7000", "--for", "60s")
	want := talk("20000")
	done(cmd, errs)
	got := lengths(file)
	for _, p := range got {
		if p[0] != "right:one" || p[1] != "64" || len(p[2]) < 2 || p[2] == "64" {
			t.Fatalf("--group ones --snaplen 64 has %v", p)
		}
	}
	if uint64(len(got)) != want {
		t.Errorf("--group: %d packets, %d were sent", len(got), want)
	}

	// A machine's own interfaces, which what is on their way from its containers passes.
	file, cmd, errs = f.capturing("host", "--host", "left", "--filter", "udp port 7000", "--for", "60s")
	talk("21000")
	done(cmd, errs)
	if got = lengths(file); len(got) == 0 {
		t.Error("--host: nothing came")
	}
	for _, p := range got {
		if p[0] != "left" || p[1] != p[2] {
			t.Fatalf("--host left has %v", p)
		}
	}

	says(t, "a refusal", f.weft("capture", "-l", "app=two", "-w", "-").stderr, "group private, whose flows are Off", "forced")
	file, cmd, errs = f.capturing("forced", "-l", "app=two", "--force", "--filter", "udp port 7000", "--for", "60s")
	talk("22000")
	done(cmd, errs)
	if got = lengths(file); len(got) == 0 || got[0][0] != "right:two" {
		t.Errorf("--force has %d packets: %v", len(got), got)
	}
	says(t, "the audit log", f.ok("audit", "-o", "json"), "forced: true", "forced: false")

	// Two hosts, of which one is silent: the other has the whole limit.
	file, cmd, errs = f.capturing("shared", "-l", "app in (one,right)", "--filter", "udp port 7000 and udp src portrange 23000-23999", "--packets", "25", "--for", "60s")
	talk("23000")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("--packets: %v: %s", err, errs)
	}
	if n := len(lengths(file)); n != 25 {
		t.Errorf("--packets 25 has %d", n)
	}
}

// memory is the most that a program has held, in bytes.
func (p *process) memory(t *testing.T) (bytes uint64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &bytes); err == nil {
			return bytes << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// Who reads a capture slowly, or not at all, loses packets, which are counted. The
// workload waits for nothing and nobody holds more for it than was agreed.
func TestCaptureForASlowReader(t *testing.T) {
	f := newFleetFor(t, talkers, 150*time.Second)
	server := f.controller()
	f.agents("left", "right")
	left, one := f.lab.Host("left"), f.lab.Host("right").Container("one")
	f.helper("left-serve", "serve", left)
	before := map[string]uint64{}
	for _, name := range []string{controllerHost, "left", "right"} {
		before[name] = f.procs[name].memory(t)
	}
	begin := func() (*exec.Cmd, io.Reader, *strings.Builder) {
		cmd := exec.CommandContext(f.ctx, filepath.Join(f.bin, "weft"), "capture", "-l", "app in (left,one)", "--filter", "tcp port 80", "--size", "2GiB", "--packets", "100000000", "--rate", "1000", "--for", "100s", "-w", "-")
		cmd.Env = append(os.Environ(), "WEFT_SERVER=unix://"+f.socket, "HOME="+f.state(controllerHost))
		errs := &strings.Builder{}
		cmd.Stderr = errs
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(out)
		if _, err := r.Peek(1); err != nil { // it has begun
			t.Fatalf("%v: %s", err, errs)
		}
		return cmd, r, errs
	}
	const size = 150_000_000 // that cannot be compressed: six times what is held on the way, at each end
	fetchAll := func() {
		t.Helper()
		out := f.run(one, "curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", fmt.Sprintf("http://%s/%d", left.Addresses()[0], size))
		if strings.TrimSpace(out) != fmt.Sprint(size) {
			t.Fatalf("the workload has got %s bytes", out)
		}
	}

	cmd, out, errs := begin()
	fetchAll()
	for name, was := range before {
		if now := f.procs[name].memory(t); now > was+192<<20 {
			t.Errorf("%s held %d MiB, and %d before anybody captured", name, now>>20, was>>20)
		}
	}
	// It reads at last: the file is whole, and says what is missing.
	cmd.Process.Signal(syscall.SIGINT)
	r, err := pcapgo.NewNgReader(out, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	packets := 0
	for ; err == nil; packets++ {
		_, _, err = r.ReadPacketData()
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("after %d packets: %v", packets, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, errs)
	}
	var received, dropped uint64
	for i := range r.NInterfaces() {
		x, err := r.Interface(i)
		if err != nil {
			t.Fatal(err)
		}
		received, dropped = received+x.Statistics.PacketsReceived, dropped+x.Statistics.PacketsDropped
	}
	if dropped == 0 || packets < 2 || received < dropped {
		t.Errorf("%d packets came, and %d of %d are counted as lost", packets-1, dropped, received)
	}

	// Who never reads, and does not want it any more, is let go.
	cmd, _, errs = begin()
	fetchAll()
	time.Sleep(5 * time.Second) // packets wait for those of other hosts before they come
	cmd.Process.Signal(syscall.SIGINT)
	time.Sleep(500 * time.Millisecond)
	cmd.Process.Signal(syscall.SIGINT)
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	select {
	case err := <-gone:
		if err == nil || !strings.Contains(errs.String(), "nobody takes") {
			t.Errorf("%v: %s", err, errs)
		}
	case <-time.After(30 * time.Second):
		t.Error("it hangs")
	}
	f.wait(30*time.Second, "the taps are taken away", func() error {
		if p := append(f.capturePins("left"), f.capturePins("right")...); len(p) > 0 {
			return fmt.Errorf("there are %v", p)
		}
		return nil
	})
	f.wait(30*time.Second, "both captures are over", func() error {
		var entries []struct{ Verb string }
		if err := json.Unmarshal([]byte(f.ok("audit", "-o", "json")), &entries); err != nil {
			return err
		}
		n := 0
		for _, e := range entries {
			if e.Verb == "captured" {
				n++
			}
		}
		if n != 2 {
			return fmt.Errorf("%d have ended", n)
		}
		return server.alive()
	})
}
