package discover

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/engines"
	"weft/internal/testreq"
	"weft/wire/wirepb"
)

func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Discovery costs next to nothing while nothing happens: half a hundredth of a
// core with fifty containers, which takes most of a minute to show
// (WEFT_TEST_LONG=1). Otherwise it is ten, for ten seconds.
func TestIdleCost(t *testing.T) {
	testreq.Need(t, engines.Needs...)
	if !inOwnNetwork(t) {
		return
	}
	m := newMachine(t)
	p := engines.NewPodman(t)
	m.engine(p.Engine)
	p.Import(t, "web:1")
	n, long := 10, 10*time.Second
	if os.Getenv("WEFT_TEST_LONG") != "" {
		n, long = 50, 30*time.Second
	}
	many(t, p, n)
	d := m.run(Config{DockerSockets: []string{p.Socket}})
	waitFor(t, d, 5*time.Second, "all of them", func(ws []*wirepb.Workload) bool { return len(ws) == n+1 })
	time.Sleep(3 * time.Second)
	before, began := cpu(t), time.Now()
	time.Sleep(long)
	share := 100 * float64(cpu(t)-before) / float64(time.Since(began))
	t.Logf("%d containers: %.2f %% of a core", n, share)
	if share > 0.5 {
		t.Errorf("discovery takes %.2f %% of a core while nothing happens", share)
	}
}
