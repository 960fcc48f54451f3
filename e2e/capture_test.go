package e2e

import (
	"encoding/json"
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
)

// capturing runs weft capture into a file until the first block is there.
func (f *fleet) capturing(name string, args ...string) (file string, cmd *exec.Cmd, errs *strings.Builder) {
	f.t.Helper()
	file = filepath.Join(f.t.TempDir(), name+".pcapng")
	cmd = exec.CommandContext(f.ctx, filepath.Join(f.bin, "weft"), append([]string{"capture", "-w", file}, args...)...)
	cmd.Env = append(os.Environ(), "WEFT_SERVER=unix://"+f.socket, "HOME="+f.state(controllerHost))
	errs = &strings.Builder{}
	cmd.Stderr = errs
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.wait(20*time.Second, "the file of "+name+" begins", func() error {
		if info, err := os.Stat(file); err != nil || info.Size() == 0 {
			return errors.New("it is empty")
		}
		return nil
	})
	return file, cmd, errs
}

// frames reads a file with tshark: interface, comment, time of each packet.
func (f *fleet) frames(file string) [][]string {
	f.t.Helper()
	out, err := f.framesOf(file)
	if err != nil {
		f.t.Fatalf("tshark: %v", err)
	}
	return out
}

// framesOf reads also one that is still being written.
func (f *fleet) framesOf(file string) (out [][]string, err error) {
	text, err := exec.CommandContext(f.ctx, "tshark", "-r", file, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.comment", "-e", "frame.time_delta", "-e", "udp.port").Output()
	for line := range strings.Lines(string(text)) {
		out = append(out, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return out, err
}

// flowPort is the client's port of a flow.
func (f *fleet) flowPort(id string) string {
	f.t.Helper()
	var x struct {
		Client struct{ Port json.Number }
	}
	if err := json.Unmarshal([]byte(f.ok("flows", "explain", id, "-o", "json")), &x); err != nil {
		f.t.Fatal(err)
	}
	return x.Client.Port.String()
}

func (f *fleet) capturePins(host string) (out []string) {
	for _, p := range f.pins(host) {
		if strings.Contains(p, "capture-v") && strings.Contains(filepath.Base(p), "link-") {
			out = append(out, p)
		}
	}
	return out
}

// One flow of a container and a machine is captured at both ends into one file, in
// order and to the packet; limits hold, with and without a controller.
func TestCaptureOfManyHosts(t *testing.T) {
	testreq.Need(t, "tshark")
	f := newFleetFor(t, talkers, 200*time.Second)
	server := f.controller()
	f.agents("left", "right")
	left, one := f.lab.Host("left"), f.lab.Host("right").Container("one")
	f.helper("left-answer", "answer", left, ":7000")
	f.metered("left", "right")
	target := fmt.Sprint(left.Addresses()[0], ":7000")

	file, cmd, errs := f.capturing("both", "-l", "app in (left,one)", "--filter", "udp port 7000", "--for", "60s")
	asked := f.generate(one, "ask", target, "20000", "200")
	cmd.Process.Signal(syscall.SIGINT)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("Ctrl-C: %v: %s", err, errs)
	}
	count, named := map[string]uint64{}, 0
	for i, x := range f.frames(file) {
		count[x[0]]++
		if strings.Contains(x[1], "process=/") && strings.Contains(x[1], "workload="+x[0]) {
			named++
		}
		if strings.HasPrefix(x[2], "-") {
			t.Errorf("packet %d is earlier than the one before by %s", i+1, x[2])
		}
	}
	want := asked.SentPackets + asked.ReceivedPackets
	if len(count) != 2 || count["left"] != want {
		t.Errorf("packets by interface are %v, want %d each", count, want)
	}
	for name, n := range count {
		if n != want {
			t.Errorf("%s has %d packets, the generator %d", name, n, want)
		}
	}
	if named == 0 {
		t.Errorf("no packet has a process: %v", f.frames(file)[:4])
	}
	says(t, "the audit log", f.ok("audit"), "capture", "captured")

	// A flow is captured by its ID, and nothing else is.
	var id string
	f.wait(40*time.Second, "the flow is listed", func() error {
		out := f.weft("flows", "-o", "json", "--where", "port=7000,client=right:one", "--top", "1")
		var list []struct{ ID json.Number }
		if err := json.Unmarshal([]byte(out.stdout), &list); err != nil || len(list) == 0 {
			return fmt.Errorf("%w: %s%s", err, out.stdout, out.stderr)
		}
		id = list[0].ID.String()
		return nil
	})
	client := f.flowPort(id)
	file, cmd, errs = f.capturing("flow", "--flow", id, "--for", "60s")
	f.generate(one, "ask", target, client, "1")
	f.generate(one, "ask", target, "40000", "50")
	cmd.Process.Signal(syscall.SIGINT)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("--flow: %v: %s", err, errs)
	}
	got := f.frames(file)
	for _, x := range got {
		if !strings.Contains(x[3], client) {
			t.Errorf("a packet has the ports %s, the flow %s", x[3], client)
		}
	}
	if len(got) == 0 {
		t.Error("nothing of the flow came")
	}

	// So many packets as were asked for, and no more.
	file, cmd, errs = f.capturing("few", "-l", "app=left", "--filter", "udp port 7000", "--packets", "10", "--for", "60s")
	f.generate(one, "ask", target, "30000", "100")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("--packets: %v: %s", err, errs)
	}
	if n := len(f.frames(file)); n != 10 {
		t.Errorf("10 packets were asked for, %d came", n)
	}
	f.wait(10*time.Second, "the taps are taken away", func() error {
		if p := append(f.capturePins("left"), f.capturePins("right")...); len(p) > 0 {
			return fmt.Errorf("there are %v", p)
		}
		return nil
	})

	says(t, "a filter that is none", f.weft("capture", "-l", "app=left", "-w", "-", "--filter", "tcp prot 1").stderr, "filter")
	f.applied("apiVersion: weft/v1\nkind: Group\nmetadata: {name: private}\nspec: {selector: app=two, flows: \"Off\"}\n")
	says(t, "who is private", f.weft("capture", "-l", "app=two", "-w", "-").stderr, "group private, whose flows are Off")
	says(t, "nobody", f.weft("capture", "-l", "app=nobody", "-w", "-").stderr, "no workload")

	// The controller dies: the hosts end by themselves, and the file is whole.
	file, cmd, _ = f.capturing("orphan", "-l", "app in (left,one)", "--filter", "udp port 7000", "--for", "10s")
	if len(f.capturePins("left")) == 0 {
		t.Error("nothing is attached while a capture runs")
	}
	server.kill()
	cmd.Wait() //nolint:errcheck // it says that the controller is gone
	f.frames(file)
	f.wait(25*time.Second, "the taps are taken away", func() error {
		if p := append(f.capturePins("left"), f.capturePins("right")...); len(p) > 0 {
			return fmt.Errorf("there are %v", p)
		}
		return nil
	})
}
