package plan

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"weft/model"
	"weft/policy"
	"weft/policy/policytest"
	"weft/wire/wirepb"
)

// town is a state that changes at random.
type town struct {
	*scene
	r *rand.Rand
	g policytest.Gen
	n int // things made so far
}

func newTown(seed uint64) *town {
	w := &town{scene: newScene().relay("r1", false), r: rand.New(rand.NewPCG(seed, 9)), g: policytest.New(seed)}
	w.Number, w.Failsafe = numbers(), policy.FailsafeOptions{ControllerPort: 7443}
	for range 4 {
		w.come()
	}
	return w
}

// address is one of few, so that they collide: within an uplink's network, behind
// hosts, and of both families.
func (w *town) address() string {
	return policytest.Pick(w.g, "10.0.0.%d", "10.0.0.%d", "172.18.0.%d", "2001:db8::%d", "fe80::%d")
}

func (w *town) addressText() string { return fmt.Sprintf(w.address(), 1+w.r.IntN(6)) }

func (w *town) labels() string {
	l := w.g.Labels()
	delete(l, "workload.kind")
	var out []string
	for k, v := range l {
		out = append(out, k+"="+v)
	}
	return strings.Join(out, ",")
}

// come makes a host or a workload.
func (w *town) come() {
	w.n++
	if len(w.Hosts) < 2 || w.r.IntN(5) == 0 {
		w.host(fmt.Sprintf("h%d", w.n), w.labels(), fmt.Sprintf("10.0.0.%d/24", 1+w.r.IntN(6)), "2001:db8::9/64")
		return
	}
	h := w.Hosts[w.r.IntN(len(w.Hosts))].Metadata.Name
	w.container(h, fmt.Sprintf("c%d", w.n), w.labels(), w.addressText(), w.addressText())
}

func drop[T any](r *rand.Rand, list []T) []T {
	if len(list) == 0 {
		return list
	}
	i := r.IntN(len(list))
	return slices.Delete(slices.Clone(list), i, i+1)
}

// step changes one thing.
func (w *town) step() string {
	switch w.r.IntN(17) {
	case 0, 1, 2:
		w.come()
		return "come"
	case 3, 4:
		w.Workloads = drop(w.r, w.Workloads)
		return "go"
	case 5: // a workload's labels or addresses change
		if len(w.Workloads) == 0 {
			return "none"
		}
		w.Workloads = slices.Clone(w.Workloads)
		i := w.r.IntN(len(w.Workloads))
		c := *w.Workloads[i]
		kind, host := c.Metadata.Labels[LabelKind], c.Metadata.Labels[LabelHost]
		c.Metadata.Labels = labels(w.labels())
		c.Metadata.Labels[LabelKind], c.Metadata.Labels[LabelHost] = kind, host
		if c.Spec.Kind != model.WorkloadHost {
			c.Spec.Addresses = []string{w.addressText()}
		}
		w.Workloads[i] = &c
		return "relabel"
	case 6, 7, 8:
		w.Policies = append(slices.Clone(w.Policies), w.random(w.n+100))
		w.n++
		return "policy"
	case 9:
		w.Policies = drop(w.r, w.Policies)
		return "policy gone"
	case 10:
		if len(w.Policies) == 0 {
			return "none"
		}
		w.Policies = slices.Clone(w.Policies)
		i := w.r.IntN(len(w.Policies))
		next := w.random(0)
		next.Metadata = w.Policies[i].Metadata
		w.Policies[i] = next
		return "policy edited"
	case 11:
		if len(w.Hosts) < 3 {
			return "none"
		}
		if w.r.IntN(2) == 0 {
			w.Hosts = drop(w.r, w.Hosts)
			return "host gone"
		}
		w.Hosts = slices.Clone(w.Hosts)
		i := w.r.IntN(len(w.Hosts))
		h := *w.Hosts[i]
		h.Spec.Revoked = !h.Spec.Revoked // back again, too: the plan does not mind
		w.Hosts[i] = &h
		return "revoked"
	case 14, 15: // a host has a key, another one, or none any more
		next := maps.Clone(w.CallerKeys)
		if next == nil {
			next = map[string][]byte{}
		}
		h := w.Hosts[w.r.IntN(len(w.Hosts))].Metadata.Name
		if next[h] = []byte(fmt.Sprintf("key %d of %s", w.n, h)); w.r.IntN(4) == 0 {
			delete(next, h)
		}
		w.n++
		w.CallerKeys = next
		return "key"
	case 16: // a host is another of the same name, or two have one number
		w.n++
		w.Hosts = slices.Clone(w.Hosts)
		i := w.r.IntN(len(w.Hosts))
		h := *w.Hosts[i]
		if h.Metadata.UID = fmt.Sprintf("uid-%d", w.n); w.r.IntN(3) == 0 {
			h.Metadata.UID = w.Hosts[w.r.IntN(len(w.Hosts))].Metadata.UID
		}
		w.Hosts[i] = &h
		return "another host"
	case 12:
		next := map[string][]model.Interface{}
		for k, v := range w.Interfaces {
			next[k] = v
		}
		h := w.Hosts[w.r.IntN(len(w.Hosts))].Metadata.Name
		next[h] = []model.Interface{{Name: "eth0", Uplink: w.r.IntN(3) > 0, Addresses: []string{fmt.Sprintf("10.0.0.%d/24", 1+w.r.IntN(6))}}}
		w.Interfaces = next
		return "interfaces"
	}
	if w.r.IntN(2) == 0 {
		w.Groups = drop(w.r, w.Groups)
		w.Taps = drop(w.r, w.Taps)
		return "group gone"
	}
	w.n++
	w.Groups = slices.Clone(w.Groups)
	w.group(fmt.Sprintf("g%d", w.n), policytest.Pick(w.g, "app=a", "env=b", "role"))
	if w.r.IntN(2) == 0 {
		w.mode(fmt.Sprintf("g%d", w.n), policytest.Pick(w.g, model.ModeObserve, model.ModeSelective, model.ModeEnforce))
	}
	if w.r.IntN(3) == 0 {
		w.Groups[len(w.Groups)-1].Spec.Flows = model.FlowsOff
	}
	w.Taps = slices.Clone(w.Taps)
	w.tap(fmt.Sprintf("t%d", w.n), fmt.Sprintf("@g%d", w.n), "app=b")
	return "group"
}

func (w *town) random(n int) *model.Policy {
	p := w.g.Policy(n)
	p.TypeMeta, p.Metadata.UID = model.TypeMeta{APIVersion: model.APIVersion, Kind: model.KindPolicy}, "uid-"+p.Metadata.Name
	return p
}

// Whatever changes in whatever order, a planner that has seen it all makes the
// plan that one makes who sees the last state alone, to the byte. It says which
// hosts have changed, and gives one digest to one body.
func TestPlansAreOfThePresentStateAlone(t *testing.T) {
	seeds, steps := 30, 50
	if testing.Short() {
		seeds = 10
	}
	for seed := range uint64(seeds) {
		w := newTown(seed)
		var planner Planner
		var last *Plan
		bodies := map[string]string{}
		w.CallerKeys = map[string][]byte{}
		for _, h := range w.Hosts {
			w.CallerKeys[h.Metadata.Name] = []byte("key of " + h.Metadata.Name)
		}
		var done []string
		for range steps {
			for range 1 + w.r.IntN(3) {
				done = append(done, w.step())
			}
			state := w.State
			if w.r.IntN(3) == 0 {
				state = w.shuffle(w.r)
			}
			p := planner.Plan(state)
			fresh := Compute(w.State)
			if got, want := dump(p), dump(fresh); got != want {
				t.Fatalf("seed %d after %v:\n%s", seed, done, firstDifference(got, want))
			}
			for _, wl := range w.Workloads {
				if p.Identity(wl.Metadata.Name) != fresh.Identity(wl.Metadata.Name) {
					t.Fatalf("seed %d after %v: %s is %d, want %d", seed, done, wl.Metadata.Name, p.Identity(wl.Metadata.Name), fresh.Identity(wl.Metadata.Name))
				}
			}
			for name, h := range p.Hosts.All() {
				changed := last == nil || last.Hosts.Get(name) != h
				if _, said := slices.BinarySearch(p.Changed, name); changed != said {
					t.Fatalf("seed %d after %v: %s changed %t, said to have %t", seed, done, name, changed, said)
				}
				for _, s := range h.Sections {
					raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(bodyOf(s))
					if err != nil {
						t.Fatal(err)
					}
					if other, known := bodies[s.Name+s.Digest]; known && other != string(raw) {
						t.Fatalf("seed %d: digest %s is of two bodies", seed, s.Digest)
					}
					bodies[s.Name+s.Digest] = string(raw)
				}
			}
			last = p
		}
	}
}

func bodyOf(s *wirepb.Section) *wirepb.Section {
	return &wirepb.Section{Name: s.Name, Body: s.Body}
}

// firstDifference shows where two texts part.
func firstDifference(got, want string) string {
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	around := func(s string) string { return s[max(0, i-300):min(len(s), i+300)] }
	return fmt.Sprintf("got  ...%s\nwant ...%s", around(got), around(want))
}
