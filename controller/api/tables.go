package api

import (
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"

	"weft/controller/plan"
	"weft/model"
	"weft/policy"
	"weft/policy/classify"
)

// guardTables refuses a policy, or a group with a mode, that a host could not
// hold: a datapath has room for so much, and a host that cannot load what it was
// sent goes on by what it has, without anybody having meant that. Only hosts are
// looked at that have a workload which the change is about. Staged policies take
// no room; they are judged when they become active.
func guardTables(f *fleet, w *plan.World, r model.Resource) error {
	about, err := concerned(f, r)
	if err != nil || len(about) == 0 {
		return nil // what is wrong with the group is said elsewhere
	}
	subjects, ids := map[string][]policy.Identity{}, map[policy.Identity]bool{}
	for _, wl := range f.workloads {
		if id := w.ByWorkload[wl.Metadata.Name]; about[wl.Spec.Host] && w.Subjects[id] {
			subjects[wl.Spec.Host] = append(subjects[wl.Spec.Host], id)
			ids[id] = true
		}
	}
	set, err := policy.CompileFor(w.At(model.StageActive), slices.Sorted(maps.Keys(ids)))
	if err != nil {
		return problem(http.StatusUnprocessableEntity, "%v", err)
	}
	sizes := sizes{world: w, known: map[*policy.Ruleset]size{}}
	for _, host := range slices.Sorted(maps.Keys(subjects)) {
		if fault := sizes.check(set, subjects[host]); fault != "" {
			return problem(http.StatusConflict, "host %s could not hold %s: %s", host, model.Ref(r), fault)
		}
		if n := f.directory.Len(host); n > classify.MaxAddresses {
			return problem(http.StatusConflict, "host %s could not hold %s: it would have to know %d addresses, %d at most; name its peers by selectors that match fewer in place of world, fleet or ipBlocks, or use a second controller for a part of the fleet", host, model.Ref(r), n, classify.MaxAddresses)
		}
	}
	return nil
}

// concerned finds the hosts of the workloads that a change is about.
func concerned(f *fleet, r model.Resource) (map[string]bool, error) {
	var list []*model.Workload
	var err error
	switch r := r.(type) {
	case *model.Policy:
		if r.Spec.StageOrDefault() == model.StageActive {
			list, err = plan.NewResolver(nil, f.workloads).Members(model.GroupSpec{Selector: r.Spec.Subject.Selector})
		}
	case *model.Group:
		if r.Spec.Mode != "" {
			list, err = plan.NewResolver(f.groups, f.workloads).Members(r.Spec)
		}
	}
	hosts := map[string]bool{}
	for _, wl := range list {
		hosts[wl.Spec.Host] = true
	}
	return hosts, err
}

// sizes are what rulesets take, each looked at once.
type sizes struct {
	world *plan.World
	known map[*policy.Ruleset]size
}

type size struct {
	load  classify.Load
	steps int
}

func (s *sizes) of(r *policy.Ruleset) size {
	n, done := s.known[r]
	if !done {
		n.load, n.steps = classify.LoadOf(r, func(sel model.Selector) *roaring.Bitmap { return s.world.Identities.Members(sel) })
		s.known[r] = n
	}
	return n
}

// check says what a host with these subjects has no room for, and what to do;
// "" where it has room for all.
func (s *sizes) check(set *policy.Set, subjects []policy.Identity) string {
	if n := len(subjects); n > classify.MaxSubjects {
		return fmt.Sprintf("policy would be about %d workloads there, %d at most; narrow the subject", n, classify.MaxSubjects)
	}
	var sum classify.Load
	seen := map[*policy.Ruleset]bool{}
	for _, id := range subjects {
		r := set.For(id)
		if seen[r] {
			continue
		}
		seen[r] = true
		n := s.of(r)
		if n.steps > classify.MaxSteps {
			return fmt.Sprintf("up to %d rules could be tried for one connection of a workload with the labels %s, %d at most; rules with processes, Pass or Log lie over one another: give them ports or peers that differ", n.steps, labelText(s.world.Identities.Labels(id)), classify.MaxSteps)
		}
		sum.Add(n.load)
	}
	what, need, most := sum.Exceeds(classify.Room())
	if what == "" {
		return ""
	}
	return fmt.Sprintf("its workloads would need %d %s, %d at most; join rules that differ only in their peers or ports into one with more peers or ranges, or narrow the subject", need, what, most)
}

func labelText(labels map[string]string) string {
	out := ""
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if out != "" {
			out += ","
		}
		out += k + "=" + labels[k]
	}
	return out
}
