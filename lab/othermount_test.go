package lab_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"weft/internal/testreq"
	"weft/lab"
)

const sweepOnly = `
mount --make-rprivate / && mount -t tmpfs tmpfs /run && exec "$0" -test.run TestSweepElsewhere`

// TestSweepElsewhere is the other process of the next test.
func TestSweepElsewhere(t *testing.T) {
	if os.Getenv("WEFT_TEST_SWEEP") == "" {
		return // nothing to do but in that process
	}
	if swept, err := lab.Sweep(); err != nil || len(swept) > 0 {
		t.Errorf("swept %v, %v", swept, err)
	}
}

// A process with a /run of its own sees this lab's cgroups but not its run
// directory; its sweep must leave them.
func TestSweepSparesWhatItCannotSee(t *testing.T) {
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.Cgroup2, "unshare", "mount")
	topo, err := lab.Parse("test", []byte("apiVersion: weft/v1\nkind: Topology\nmetadata: {name: t}\nspec:\n  switches: [{name: s}]\n  hosts:\n  - {name: a, attach: s, containers: [{name: c}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Up(t.Context(), topo, lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Down()
	// As old as a lab that somebody might take for forgotten.
	long := time.Now().Add(-time.Hour)
	for _, dir := range []string{l.Host("a").CgroupDir() + "/..", l.Host("a").CgroupDir()} {
		if err := os.Chtimes(dir, long, long); err != nil {
			t.Fatal(err)
		}
	}
	other := exec.Command("unshare", "--mount", "sh", "-c", sweepOnly, os.Args[0])
	other.Env = append(os.Environ(), "WEFT_TEST_SWEEP=1")
	if out, err := other.CombinedOutput(); err != nil {
		t.Errorf("the other process: %v\n%s", err, out)
	}
	if out, err := l.Host("a").Container("c").Command(t.Context(), "true").CombinedOutput(); err != nil {
		t.Errorf("the container is gone: %v %s", err, out)
	}
}
