package bpf

import (
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"weft/internal/testreq"
)

// Each program is one that this kernel's verifier believes: here it says which is
// not, and why.
func TestProgramsLoad(t *testing.T) {
	testreq.Need(t, testreq.BPF)
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){"policy": loadPolicy, "guest": loadGuest, "edge": loadEdge, "drops": loadDrops} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		for program := range spec.Programs {
			t.Run(name+"/"+program, func(t *testing.T) {
				one := spec.Copy()
				for other := range spec.Programs {
					if other != program {
						delete(one.Programs, other)
					}
				}
				c, err := ebpf.NewCollection(one)
				if v := one.Variables["netns_helper"]; err != nil && v != nil { // kernels before 6.15
					if err := v.Set(uint32(0)); err != nil {
						t.Fatal(err)
					}
					c, err = ebpf.NewCollection(one)
				}
				var refused *ebpf.VerifierError
				if errors.As(err, &refused) {
					t.Fatalf("%v\n%s", err, strings.Join(refused.Log[max(0, len(refused.Log)-40):], "\n"))
				} else if err != nil {
					t.Fatal(err)
				}
				c.Close()
			})
		}
	}
}
