package plan

import (
	"cmp"
	"maps"
	"slices"

	"weft/model"
	"weft/policy"
)

// Labels that every workload carries.
const (
	LabelKind = "workload.kind"
	LabelHost = "host.name"
)

// Number returns the number of a set of identity labels: the same for the same
// set, and never one that another set has had. The error says why there is none.
type Number func(labels map[string]string) (policy.Identity, error)

// World is the policy of a fleet at one moment, and who is who in it.
type World struct {
	Policies   []*model.Policy // by name
	Failsafe   []*model.Policy
	Identities *policy.Identities
	Modes      map[policy.Identity]model.Mode
	// ByWorkload has the identity of every workload, by its name.
	ByWorkload map[string]policy.Identity
	// Subjects are the identities that a policy of a person or a group with a mode
	// is about. Nobody else's packets are looked at.
	Subjects map[policy.Identity]bool

	keys   []string // of identity labels, sorted
	byText map[string]policy.Identity
}

// WorldInput is what a World is made of.
type WorldInput struct {
	// Policies that count; those of any other stage must be left out.
	Policies  []*model.Policy
	Failsafe  []*model.Policy
	Groups    []*model.Group
	Workloads []*model.Workload
	Number    Number
	// Keys are identity labels besides those that follow from the rest, and Sets
	// label sets of workloads that are gone, to be numbered too.
	Keys []string
	Sets []map[string]string
	// Last may be nil; its identities are used again where they are the same.
	Last *World
}

// NewWorld finds the identities of all workloads. Identity labels are those
// that a selector of a policy, or of a group with a mode, asks about, and the
// workload's kind: all that policy can tell apart, and nothing else. It fails
// where Number does, only.
func NewWorld(in WorldInput) (*World, error) {
	w := &World{Failsafe: in.Failsafe, Modes: map[policy.Identity]model.Mode{}, ByWorkload: make(map[string]policy.Identity, len(in.Workloads)), Subjects: map[policy.Identity]bool{}}
	w.Policies = slices.SortedFunc(slices.Values(in.Policies), func(a, b *model.Policy) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	resolver := NewResolver(in.Groups, in.Workloads)
	w.keys = slices.Concat(in.Keys, IdentityKeys(w.Policies, in.Groups))
	slices.Sort(w.keys)
	w.keys = slices.Compact(w.keys)
	if err := w.number(in); err != nil {
		return nil, err
	}
	for _, g := range in.Groups {
		if g.Spec.Mode == "" {
			continue
		}
		members, err := resolver.Members(g.Spec)
		if err != nil {
			continue // said of the group
		}
		for _, m := range members {
			id := w.ByWorkload[m.Metadata.Name]
			w.Modes[id], w.Subjects[id] = w.Modes[id].Stricter(g.Spec.Mode), true
		}
	}
	for _, p := range w.Policies {
		for it := w.Identities.Members(*p.Spec.Subject.Selector).Iterator(); it.HasNext(); {
			w.Subjects[policy.Identity(it.Next())] = true
		}
	}
	return w, nil
}

// number gives every workload its identity.
func (w *World) number(in WorldInput) error {
	sets := map[string]map[string]string{} // by text
	texts := make([]string, len(in.Workloads))
	for i, wl := range in.Workloads {
		set := w.Project(wl.Metadata.Labels)
		texts[i] = setText(set)
		sets[texts[i]] = set
	}
	for _, labels := range in.Sets {
		set := w.Project(labels)
		sets[setText(set)] = set
	}
	byText, byID := map[string]policy.Identity{}, map[policy.Identity]map[string]string{}
	for i, text := range slices.Sorted(maps.Keys(sets)) {
		id := policy.Identity(i + 1)
		if in.Number != nil {
			var err error
			if id, err = in.Number(sets[text]); err != nil {
				return err
			}
		}
		byText[text], byID[id] = id, sets[text]
	}
	for i, wl := range in.Workloads {
		w.ByWorkload[wl.Metadata.Name] = byText[texts[i]]
	}
	w.byText = byText
	// A number stands for one set for ever, so equal numbers are equal identities.
	if in.Last != nil && in.Number != nil && slices.Equal(in.Last.Identities.All(), slices.Sorted(maps.Keys(byID))) {
		w.Identities = in.Last.Identities
		return nil
	}
	w.Identities = policy.IdentitiesOf(byID)
	return nil
}

// Project returns the identity labels among all labels of a workload.
func (w *World) Project(labels map[string]string) map[string]string {
	set := map[string]string{}
	for _, k := range w.keys {
		if v, has := labels[k]; has {
			set[k] = v
		}
	}
	return set
}

// Find returns the identity of whoever has these labels among others, 0 where
// nobody has.
func (w *World) Find(labels map[string]string) policy.Identity {
	return w.byText[setText(w.Project(labels))]
}

// At returns what the policy room judges packets by.
func (w *World) At(through model.Stage) *policy.World {
	return &policy.World{Policies: w.Policies, Failsafe: w.Failsafe, Identities: w.Identities, Modes: w.Modes, Through: through}
}

// setText is the canonical text of a label set. No label holds a NUL or a newline.
func setText(labels map[string]string) string {
	var b []byte
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		b = append(append(append(append(b, k...), 0), labels[k]...), '\n')
	}
	return string(b)
}
