package charge

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// burn uses the processor until its own process has used so much of it.
func burn(t *testing.T, d time.Duration) {
	t.Helper()
	from, _, err := Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		now, _, err := Process(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now-from >= d {
			return
		}
	}
	t.Fatal("this process got no processor for a minute")
}

func TestOwnWorkIsCharged(t *testing.T) {
	m := Meter{Cgroup: "no such cgroup"}
	from, err := m.Now()
	if err != nil {
		t.Fatal(err)
	}
	burn(t, 300*time.Millisecond)
	cost, _, err := m.Since(from)
	if err != nil || cost < 0.25 {
		t.Errorf("charged %g CPU-s for 0.3, %v", cost, err)
	}
}

func TestOthersWorkIsTakenOff(t *testing.T) {
	m := Meter{Cgroup: "no such cgroup"}
	from, err := m.Now()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 5")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	var used time.Duration
	for end := time.Now().Add(20 * time.Second); used < 100*time.Millisecond && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
		if used, _, err = Process(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	_, foreign, err := m.Since(from)
	if err != nil || foreign < used.Seconds()-0.02 {
		t.Errorf("a program used %v, seen of all others %g CPU-s, %v", used, foreign, err)
	}
}

func TestFamily(t *testing.T) {
	cmd := exec.Command("sh", "-c", "exec 3<&0; sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; exec cat' <&3 & wait")
	in, err := cmd.StdinPipe() // both end with it
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); cmd.Process.Kill(); cmd.Wait() }()
	var own, all time.Duration
	var memory, allMemory float64
	for end := time.Now().Add(20 * time.Second); all < 100*time.Millisecond && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if all, allMemory, err = Family(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	if own, memory, err = Process(cmd.Process.Pid); err != nil || all < own+50*time.Millisecond || allMemory <= memory {
		t.Errorf("with its child %v and %g MB, alone %v and %g MB, %v", all, allMemory, own, memory, err)
	}
}
