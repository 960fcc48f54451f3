package bpf

import (
	"testing"

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
		"tables": classify.Capacity.Tables, "ports": classify.Capacity.Ports, "steps": classify.Capacity.Steps, "identities": classify.Capacity.Identities,
		"blocks": classify.Capacity.Blocks, "slots": classify.MaxSubjects, "addresses": classify.MaxAddresses,
	} {
		if m := spec.Maps[name]; m == nil || int(m.MaxEntries) != want {
			t.Errorf("map %s: %v, the controller reckons with %d", name, m, want)
		}
	}
}
