package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/testreq"
	"weft/lab"
)

// TestLabMatrix takes the two-node example from nothing to enforced, as its
// README does.
func TestLabMatrix(t *testing.T) {
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.BPF, testreq.Cgroup2)
	dir := os.Getenv("WEFT_BIN") // make test has just built both
	for _, name := range []string{"weft", "weft-agent"} {
		if os.Getenv("WEFT_BIN") != "" {
			break
		}
		if dir == "" {
			dir = t.TempDir()
		}
		build := exec.Command("go", "build", "-buildvcs=false", "-o", dir, "../"+name)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
	}
	weft := func(args ...string) (stdout, stderr string, code int) {
		t.Helper()
		var out, errs strings.Builder
		cmd := exec.Command(filepath.Join(dir, "weft"), args...)
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return out.String(), errs.String(), cmd.ProcessState.ExitCode()
	}
	example := "../../examples/two-node/"
	out, errs, code := weft("lab", "up", "--agents", example+"topology.yaml")
	if code != 0 {
		t.Fatalf("up: %s", errs)
	}
	id := strings.Fields(out)[1]
	t.Cleanup(func() {
		weft("lab", "down", id)
		if left := lab.Leftovers(id); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	})
	if !strings.Contains(out, "export WEFT_SERVER=unix://") {
		t.Errorf("up does not say where the controller is:\n%s", out)
	}

	// Without policies everybody reaches everybody.
	out, errs, code = weft("lab", "matrix", "-l", id, example+"reach.table")
	if want := "9 pairs in "; code != 1 || !strings.Contains(out, want) || !strings.Contains(out, "2 as expected, 7 not") || strings.Contains(out, "\x1b") {
		t.Errorf("matrix without policies: status %d\n%s%s", code, out, errs)
	}
	for line := range strings.Lines(out) {
		if len([]rune(strings.TrimRight(line, "\n"))) > 80 {
			t.Errorf("line of more than 80 columns: %q", line)
		}
	}
	out, errs, code = weft("lab", "matrix", "-l", id, example+"reach.table", "-f", example+"policies.yaml", "-o", "json")
	if code != 0 {
		t.Errorf("matrix with policies: status %d\n%s%s", code, out, errs)
	}
	var report struct {
		Failed int
		Probes []struct {
			From, To, Service, Actual string
			Holds                     bool
		}
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.Failed != 0 || len(report.Probes) != 9 {
		t.Errorf("report: %v %+v", err, report)
	}

	bad := filepath.Join(t.TempDir(), "bad.table")
	os.WriteFile(bad, []byte("nobody client tcp/80 allow\nclient server tcp/80 allow\n"), 0o600)
	_, errs, code = weft("lab", "matrix", "-l", id, bad)
	if want := bad + `:1: "nobody" fits nothing; there are controller, client, server` + "\nweft: 1 fault in the table; nothing was tried\n"; code != 1 || errs != want {
		t.Errorf("bad table: status %d, %q, want %q", code, errs, want)
	}
}
