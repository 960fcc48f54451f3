package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"weft/model"
)

// Resolver finds the workloads that selectors and groups name.
type Resolver struct {
	groups    map[string]*model.Group
	workloads []*model.Workload // by name
	resolved  map[string][]*model.Workload
}

// NewResolver reads the groups and workloads; it keeps both and changes neither.
func NewResolver(groups []*model.Group, workloads []*model.Workload) *Resolver {
	r := &Resolver{groups: map[string]*model.Group{}, workloads: slices.Clone(workloads), resolved: map[string][]*model.Workload{}}
	for _, g := range groups {
		r.groups[g.Metadata.Name] = g
	}
	slices.SortFunc(r.workloads, byName)
	return r
}

func byName(a, b *model.Workload) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) }

// Members returns everybody a group of that spec holds, sorted by name. The
// error names a nested group that does not exist, or the circle.
func (r *Resolver) Members(spec model.GroupSpec) ([]*model.Workload, error) {
	return r.members(spec, nil)
}

// holds says whether a group of that spec holds a workload with these labels,
// given that its nested groups are there and make no circle.
func (r *Resolver) holds(spec model.GroupSpec, labels map[string]string) bool {
	return r.holdsWithin(spec, labels, len(r.groups))
}

func (r *Resolver) holdsWithin(spec model.GroupSpec, labels map[string]string, depth int) bool {
	if spec.Selector != nil && spec.Selector.Matches(labels) {
		return true
	}
	return depth > 0 && slices.ContainsFunc(spec.Groups, func(name string) bool {
		g := r.groups[name]
		return g != nil && r.holdsWithin(g.Spec, labels, depth-1)
	})
}

// touches says whether a workload with these labels is at an end of a tap.
func (r *Resolver) touches(t *model.Tap, labels map[string]string) bool {
	return slices.ContainsFunc([]model.Endpoints{t.Spec.From, t.Spec.To}, func(e model.Endpoints) bool {
		spec := model.GroupSpec{Selector: e.Selector}
		if e.Group != "" {
			spec = model.GroupSpec{Groups: []string{e.Group}}
		}
		return r.holds(spec, labels)
	})
}

// Group returns the members of a group by its name.
func (r *Resolver) Group(name string) ([]*model.Workload, error) { return r.named(name, nil) }

func (r *Resolver) members(spec model.GroupSpec, path []string) ([]*model.Workload, error) {
	set := map[string]*model.Workload{}
	if spec.Selector != nil {
		for _, w := range r.workloads {
			if spec.Selector.Matches(w.Metadata.Labels) {
				set[w.Metadata.Name] = w
			}
		}
	}
	for _, name := range spec.Groups {
		nested, err := r.named(name, path)
		if err != nil {
			return nil, err
		}
		for _, w := range nested {
			set[w.Metadata.Name] = w
		}
	}
	return slices.SortedFunc(maps.Values(set), byName), nil
}

func (r *Resolver) named(name string, path []string) ([]*model.Workload, error) {
	if i := slices.Index(path, name); i >= 0 {
		return nil, fmt.Errorf("groups contain one another in a circle: %s", strings.Join(append(slices.Clone(path[i:]), name), " -> "))
	}
	if done, ok := r.resolved[name]; ok {
		return done, nil
	}
	g, ok := r.groups[name]
	if !ok {
		if len(path) > 0 {
			return nil, fmt.Errorf("group %q contains group %q, which does not exist; create it or take it out", path[len(path)-1], name)
		}
		return nil, fmt.Errorf("group %q does not exist; `weft get groups` lists those that do", name)
	}
	out, err := r.members(g.Spec, append(slices.Clone(path), name))
	if err == nil {
		r.resolved[name] = out
	}
	return out, err
}

// Endpoints returns the workloads that one end of a line names.
func (r *Resolver) Endpoints(e model.Endpoints) ([]*model.Workload, error) {
	if e.Group != "" {
		return r.Group(e.Group)
	}
	if e.Selector == nil {
		return nil, fmt.Errorf("neither a selector nor a group is given")
	}
	return r.Members(model.GroupSpec{Selector: e.Selector})
}

// Tap returns both ends of a tap: the workloads to tap and the host workloads
// that are its tools. A workload on the only tool's own host is not among the
// sources, for a tool is never sent its own machine's packets.
func (r *Resolver) Tap(spec model.TapSpec) (sources, tools []*model.Workload, err error) {
	from, err := r.Endpoints(spec.From)
	if err != nil {
		return nil, nil, fmt.Errorf("spec.from: %w", err)
	}
	if spec.Ring != nil {
		return from, nil, nil
	}
	to, err := r.Endpoints(spec.To)
	if err != nil {
		return nil, nil, fmt.Errorf("spec.to: %w", err)
	}
	for _, w := range to {
		if w.Spec.Kind == model.WorkloadHost {
			tools = append(tools, w)
		}
	}
	if len(to) > 0 && len(tools) == 0 {
		return nil, nil, fmt.Errorf("spec.to: matches %s and others of kind %s, but no host; a tool is a machine with an agent: give the host the label", to[0].Metadata.Name, to[0].Spec.Kind)
	}
	for _, w := range from {
		other := func(t *model.Workload) bool { return t.Spec.Host != w.Spec.Host }
		if len(tools) == 0 || slices.ContainsFunc(tools, other) {
			sources = append(sources, w)
		}
	}
	return sources, tools, nil
}
