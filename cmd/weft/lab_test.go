package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/testreq"
	"weft/lab"
)

// TestLabCommands does what a person does, with the real program.
func TestLabCommands(t *testing.T) {
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.Cgroup2, "tcpdump", "nft")
	weft := filepath.Join(t.TempDir(), "weft")
	if out, err := exec.Command("go", "build", "-o", weft, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	// run expects success where want is given, else an error with that text.
	run := func(fails string, args ...string) string {
		t.Helper()
		out, err := exec.Command(weft, append([]string{"lab"}, args...)...).CombinedOutput()
		text := strings.TrimSpace(string(out))
		if fails == "" && err != nil {
			t.Fatalf("weft lab %v: %v\n%s", args, err, text)
		}
		if fails != "" && (err == nil || !strings.Contains(text, fails)) {
			t.Errorf("weft lab %v: %v\n%s\nwant an error with %q", args, err, text, fails)
		}
		return text
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	os.WriteFile(bad, []byte("apiVersion: weft/v1\nkind: Topology\nmetadata: {name: x}\nspec: {switchs: []}\n"), 0o600)
	run(bad+":4: spec.switchs: unknown field", "up", bad)
	run("no such file", "up", "none.yaml")

	table := run("", "up", "../../examples/two-hosts.yaml")
	id := strings.Fields(table)[1]
	t.Cleanup(func() {
		if len(lab.Leftovers(id)) > 0 {
			lab.Stop(id, 0)
		}
	})
	if !strings.Contains(table, "two-hosts") || !strings.Contains(table, "weft-"+id+"-a") {
		t.Errorf("table:\n%s", table)
	}
	var labs []lab.Listed
	if err := json.Unmarshal([]byte(run("", "ls", "-o", "json")), &labs); err != nil {
		t.Error(err)
	}
	found := false
	for _, l := range labs {
		found = found || l.ID == id && l.Alive && len(l.Hosts) == 2
	}
	if !found {
		t.Errorf("ls does not show %s: %+v", id, labs)
	}
	if got := run("", "exec", "-l", id, "a", "--", "hostname"); got != "a" {
		t.Errorf("exec: %s", got)
	}
	run(`has no host "nobody"`, "exec", "-l", id, "nobody", "--", "true")
	run("", "exec", "-l", id, "a", "--", "ping", "-c1", "-W2", "b")
	run("", "link", "-l", id, "a", "--delay", "5ms", "--loss", "1%")
	if got := run("", "link", "-l", id); !strings.Contains(got, "delay 5ms loss 1%") {
		t.Errorf("links:\n%s", got)
	}
	run("jitter 5ms is more than the delay", "link", "-l", id, "a", "--jitter", "5ms")
	run("has no link", "pcap", "-l", id, "nothing")

	file := filepath.Join(t.TempDir(), "x.pcap")
	capture := exec.Command(weft, "lab", "pcap", "-l", id, "b", "-w", file, "--", "-c", "1", "icmp")
	stderr, err := capture.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := capture.Start(); err != nil {
		t.Fatal(err)
	}
	stderr.Read(make([]byte, 4096)) // "listening on"
	run("", "link", "-l", id, "a", "--perfect")
	run("", "exec", "-l", id, "a", "--", "ping", "-c3", "-i0.2", "-W2", "b")
	if err := capture.Wait(); err != nil {
		t.Errorf("pcap: %v", err)
	}
	if st, err := os.Stat(file); err != nil || st.Size() < 100 {
		t.Errorf("capture file: %v %v", st, err)
	}
	run("", "down", id)
	if left := lab.Leftovers(id); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
