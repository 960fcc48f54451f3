package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/testreq"
	"weft/model"
)

// ringOnes keeps the packets of both ends of what the tests say.
const ringOnes = `apiVersion: weft/v1
kind: Tap
metadata: {name: black-box}
spec:
  from: {selector: "app in (left,one)"}
  filter: udp
  ring: {size: 16MiB, age: 10m}
`

// past captures what rings have kept into a file, to the end.
func (f *fleet) past(name string, args ...string) (file, errs string) {
	f.t.Helper()
	file = filepath.Join(f.t.TempDir(), name+".pcapng")
	r := f.weft(append([]string{"capture", "-w", file}, args...)...)
	if r.err != nil {
		f.t.Fatalf("%s: %v: %s", name, r.err, r.stderr)
	}
	return file, r.stderr
}

// kept waits until the tap's rings hold the packets of all hosts up to now.
func (f *fleet) kept(tap string, hosts int) *model.Tap {
	f.t.Helper()
	now := time.Now()
	var last *model.Tap
	f.wait(20*time.Second, "the rings are up to date", func() (err error) {
		if last, err = f.tap(tap); err != nil {
			return err
		}
		n := 0
		for _, p := range last.Status.Paths {
			if p.Ring != nil && p.Ring.Newest != nil && p.Ring.Newest.After(now.Add(-20*time.Second)) && p.Ledger.InFlight.Packets == 0 && p.Ledger.Delivered.Packets > 0 {
				n++
			}
		}
		if n != hosts {
			return fmt.Errorf("%d of %d are: %+v", n, hosts, last.Status.Paths)
		}
		return nil
	})
	return last
}

// What was before the command is captured as what comes is: of both ends, in order,
// with processes, to the packet, over agents that are killed, and until it is too old
// or its tap is deleted.
func TestCaptureOfThePast(t *testing.T) {
	testreq.Need(t, "tshark", "capinfos")
	f := newFleetFor(t, talkers, 200*time.Second)
	f.controller()
	f.agents("left", "right")
	left, one := f.lab.Host("left"), f.lab.Host("right").Container("one")
	f.helper("left-answer", "answer", left, ":7000")
	f.metered("left", "right")
	target := fmt.Sprint(left.Addresses()[0], ":7000")

	says(t, "no ring", f.weft("capture", "-l", "app=left", "--since", "1m", "-w", filepath.Join(t.TempDir(), "none")).stderr, "no ring keeps packets on this host")
	says(t, "a tap to both", f.apply(strings.Replace(ringOnes, "  filter", "  to: {selector: app=left}\n  filter", 1)).stderr, "spec.ring")
	f.applied(ringOnes)
	f.reaches("black-box", model.TapActive, 15*time.Second)
	asked := f.generate(one, "ask", target, "20000", "200")
	f.kept("black-box", 2)
	time.Sleep(2 * time.Second) // until the connection tables were read

	check := func(name, file string, want uint64) {
		t.Helper()
		count, named := map[string]uint64{}, 0
		for i, x := range f.frames(file) {
			count[x[0]]++
			if strings.Contains(x[1], "process=/") && strings.Contains(x[1], "workload="+x[0]) {
				named++
			}
			if strings.HasPrefix(x[2], "-") {
				t.Errorf("%s: packet %d is earlier than the one before by %s", name, i+1, x[2])
			}
		}
		for _, interf := range []string{"left", "right:one"} {
			if count[interf] != want {
				t.Errorf("%s: %s has %d packets, the generator %d; all: %v", name, interf, count[interf], want, count)
			}
		}
		if named == 0 && want > 0 {
			t.Errorf("%s: no packet has a process", name)
		}
	}
	sum := asked.SentPackets + asked.ReceivedPackets
	file, _ := f.past("both", "-l", "app in (left,one)", "--since", "5m", "--filter", "udp port 7000")
	check("all", file, sum)
	if out, err := exec.CommandContext(f.ctx, "capinfos", file).CombinedOutput(); err != nil || !strings.Contains(string(out), "pcapng") {
		t.Errorf("capinfos: %v: %s", err, out)
	}
	file, _ = f.past("one", "-l", "app in (left,one)", "--since", "5m", "--filter", "udp port 20007", "--ring", "black-box")
	if got := f.frames(file); len(got) == 0 || len(got) > 20 || !strings.Contains(got[0][3], "20007") {
		t.Errorf("--filter has %d packets", len(got))
	}
	file, _ = f.past("few", "-l", "app in (left,one)", "--since", "5m", "--packets", "9")
	if got := f.frames(file); len(got) != 9 {
		t.Errorf("--packets 9 has %d", len(got))
	}
	file, _ = f.past("before", "-l", "app in (left,one)", "--since", "5m", "--until", "4m")
	if got := f.frames(file); len(got) != 0 {
		t.Errorf("of before there was anything there are %d", len(got))
	}

	// A killed agent has kept what it had; what comes is behind that, and then live.
	f.procs["right"].kill()
	f.startAgent("right")
	f.online("right")
	f.reaches("black-box", model.TapActive, 15*time.Second)
	f.metered("right")
	again := f.generate(one, "ask", target, "30000", "100")
	sum += again.SentPackets + again.ReceivedPackets
	f.kept("black-box", 2)
	time.Sleep(2 * time.Second)
	file, cmd, errs := f.capturing("on", "-l", "app in (left,one)", "--since", "5m", "--for", "60s", "--filter", "udp port 7000")
	live := f.generate(one, "ask", target, "40000", "50")
	sum += live.SentPackets + live.ReceivedPackets
	// An interrupt ends the reading of rings too, and what they have kept is read when
	// it is known whose it is.
	f.wait(20*time.Second, "what was and what comes is in the file", func() error {
		if list, _ := f.framesOf(file); uint64(len(list)) < 2*sum { // the last may be half there
			return fmt.Errorf("%d packets of %d are", len(list), 2*sum)
		}
		return nil
	})
	cmd.Process.Signal(syscall.SIGINT)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	check("with what comes", file, sum)
	says(t, "the audit log", f.ok("audit", "-o", "json"), "what rings have kept since 5m0s ago")

	// A person sees what is kept, and nobody but root can read it.
	says(t, "the tap", f.ok("get", "taps"), "black-box", "ring", "back")
	says(t, "the host", f.ok("describe", "host", "left"), "Rings", "black-box", "16.0 MiB")
	says(t, "the tap", f.ok("describe", "tap", "black-box"), "a ring on each host", "balances")
	segments, _ := filepath.Glob(filepath.Join(f.agentDir("right"), "rings", "*", "*"))
	if len(segments) < 2 {
		t.Errorf("segments are %v", segments)
	}
	for _, s := range append(segments, filepath.Dir(segments[0]), filepath.Dir(filepath.Dir(segments[0]))) {
		if info, err := os.Stat(s); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", s, info.Mode(), err)
		}
	}

	// The tap is paused: what is kept stays. It is deleted: nothing stays.
	f.applied(ringOnes + "  paused: true\n")
	f.reaches("black-box", model.TapPaused, 10*time.Second)
	file, _ = f.past("paused", "-l", "app in (left,one)", "--since", "5m", "--filter", "udp port 7000")
	check("paused", file, sum)
	f.ok("delete", "tap", "black-box")
	f.wait(15*time.Second, "rings are gone", func() error {
		for _, host := range []string{"left", "right"} {
			if left, _ := filepath.Glob(filepath.Join(f.agentDir(host), "rings", "*")); len(left) > 0 {
				return fmt.Errorf("there are %v", left)
			}
		}
		if len(f.capturePins("left"))+len(f.capturePins("right")) > 0 {
			return errors.New("taps are there")
		}
		return nil
	})
}
