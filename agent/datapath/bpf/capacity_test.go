package bpf

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"weft/policy/classify"
)

// The controller refuses what does not fit by the numbers in classify: they are
// those of the maps.
func TestCapacityIsThatOfTheMaps(t *testing.T) {
	spec, err := loadPolicy()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{
		"tables": classify.Capacity.Tables, "ports": classify.Capacity.Ports,
		"blocks": classify.Capacity.Blocks, "slots": classify.MaxSubjects, "addresses": classify.MaxAddresses,
	} {
		if m := spec.Maps[name]; m == nil || int(m.MaxEntries) != want {
			t.Errorf("map %s: %v, the controller reckons with %d", name, m, want)
		}
	}
}

// Where there is no room to count what rules do, that is said, and the connection
// table is cleared all the same.
func TestTooManyRulesAreCounted(t *testing.T) {
	d, s := metered(t)
	for _, m := range []*ebpf.Map{d.objects.Counts, d.objects.Retired} {
		fillRules(t, m)
	}
	troubles := func() (n uint64) {
		t.Helper()
		found, err := d.Troubles()
		if err != nil {
			t.Fatal(err)
		}
		for what, k := range found {
			if strings.HasPrefix(what, "too many rules") {
				n += k
			} else {
				t.Errorf("%s: %d", what, k)
			}
		}
		return n
	}
	inside(t, "datagram", s.Machine, s.Endpoint("machine").Cgroup)
	counted := troubles()
	if counted == 0 {
		t.Error("packets of a rule without a place are not missed")
	}
	if err := d.keepRetired(tally{7: {Packets: 1}}); err != nil {
		t.Error(err)
	}
	if now := troubles(); now != counted+1 {
		t.Errorf("%d times, then %d when another left the table", counted, now)
	}
}

// fillRules fills a map by rules that no policy has.
func fillRules(t *testing.T, m *ebpf.Map) {
	t.Helper()
	cpus := 1
	if m.Type() == ebpf.PerCPUHash {
		cpus = ebpf.MustPossibleCPU()
	}
	const each = 1 << 14
	for first := uint64(0); first < uint64(m.MaxEntries()); first += each {
		keys := make([]uint64, each)
		for i := range keys {
			keys[i] = 1<<32 + first + uint64(i)
		}
		var err error = unix.ENOMEM // of memory by CPU the kernel makes more in the background
		for end := time.Now().Add(30 * time.Second); errors.Is(err, unix.ENOMEM) && time.Now().Before(end); {
			if _, err = m.BatchUpdate(keys, make([]policyCounts, each*cpus), nil); err != nil {
				time.Sleep(10 * time.Millisecond)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
