package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"weft/model"
)

// warnings says what is allowed in a resource but probably not meant.
func (a *API) warnings(ctx context.Context, r model.Resource) []string {
	switch r := r.(type) {
	case *model.Group:
		return append(a.groupWarnings(r.Spec), a.modeWarnings(ctx, r)...)
	case *model.Policy:
		return a.policyWarnings(ctx, r)
	case *model.Tap:
		out := append(a.tapWarnings(ctx, r.Spec), a.sharedDevice(ctx, r)...)
		if r.Spec.Paused {
			out = append(out, "the tap is paused; nothing is copied until spec.paused is taken out")
		}
		return out
	case *model.Probe:
		return a.probeWarnings(&r.Spec)
	case *model.Host:
		if r.Spec.Revoked {
			return []string{"a revoked host cannot be taken back; to use the machine again, delete it and join with a new token"}
		}
	}
	return nil
}

// heavy is from how many questions a second it is said what a probe comes to.
const heavy = 1000

func (a *API) probeWarnings(spec *model.ProbeSpec) []string {
	hosts := 0
	for _, w := range a.seen.Workloads() {
		if w.Spec.Kind == model.WorkloadHost && spec.From.Matches(w.Metadata.Labels) {
			hosts++
		}
	}
	if hosts == 0 {
		return []string{fmt.Sprintf("spec.from: %q matches no host now; those that come to match will ask by themselves; weft get workloads -l workload.kind=host shows their labels", spec.From)}
	}
	if rate := float64(hosts*spec.Questions()) / spec.Every().Seconds(); rate > heavy {
		return []string{fmt.Sprintf("%d hosts ask %d questions each %s: %s is asked %.0f a second", hosts, spec.Questions(), spec.Every(), spec.Target, rate)}
	}
	return nil
}

func (a *API) groupWarnings(spec model.GroupSpec) []string {
	members, err := a.seen.Members(spec)
	if err != nil {
		return []string{err.Error()}
	}
	if len(members) == 0 {
		return []string{"matches no workload now; those that come to match will belong by themselves"}
	}
	return nil
}

func (a *API) members(e model.Endpoints) ([]*model.Workload, error) {
	if e.Group != "" {
		return a.seen.Members(model.GroupSpec{Groups: []string{e.Group}})
	}
	return a.seen.Members(model.GroupSpec{Selector: e.Selector})
}

func say(e model.Endpoints) string {
	if e.Group != "" {
		return "group " + e.Group
	}
	return fmt.Sprintf("%q", e.Selector.String())
}

func (a *API) tapWarnings(ctx context.Context, spec model.TapSpec) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	from, err := a.members(spec.From)
	switch {
	case err != nil:
		add("spec.from: %v", err)
	case len(from) == 0:
		add("spec.from: %s matches no workload now; those that come to match are tapped by themselves", say(spec.From))
	}
	var to []*model.Workload
	if spec.Ring == nil {
		if to, err = a.members(spec.To); err != nil {
			add("spec.to: %v", err)
			return out
		}
	}
	if len(to) == 0 && spec.Ring == nil {
		add("spec.to: %s matches no workload, so nothing is delivered; weft get workloads -l workload.kind=host shows the hosts with an agent", say(spec.To))
	}
	hosts, err := a.hosts(ctx)
	if err != nil {
		add("hosts could not be read: %v", err)
		return out
	}
	var others []string
	for _, w := range to {
		if w.Spec.Kind != model.WorkloadHost {
			others = append(others, w.Metadata.Name)
			continue
		}
		a.toolWarnings(hosts[w.Spec.Host], w, add)
		if slices.ContainsFunc(from, func(f *model.Workload) bool { return f.Metadata.Name == w.Metadata.Name }) {
			add("%s is both tapped and a tool of this tap; keep the two apart by their labels", w.Metadata.Name)
		}
	}
	if len(others) > 0 {
		add("spec.to: %s matches %d workload(s) that are no hosts and cannot be tools: %s; add workload.kind=host", say(spec.To), len(others), shorten(others))
	}
	for name, why := range incapable(a.capabilities(hosts), from, "tap.tcx", "tap.clsact") {
		add("host %s cannot tap: %s", name, why)
	}
	return out
}

// sharedDevice names the taps that deliver to the same device of the same tool:
// all of them work, but whoever reads the device cannot tell their packets apart.
func (a *API) sharedDevice(ctx context.Context, t *model.Tap) []string {
	if t.Spec.Ring != nil {
		return nil
	}
	list, _, err := a.store.List(ctx, model.KindTap)
	if err != nil {
		return []string{fmt.Sprintf("other taps could not be read: %v", err)}
	}
	tools := func(t *model.Tap) []*model.Workload {
		to, err := a.members(t.Spec.To)
		if err != nil {
			return nil // said elsewhere
		}
		return slices.DeleteFunc(slices.Clone(to), func(w *model.Workload) bool { return w.Spec.Kind != model.WorkloadHost })
	}
	device := func(t *model.Tap) string { return cmp.Or(t.Spec.Deliver.Device, model.DefaultDevice) }
	mine := tools(t)
	var out []string
	for _, r := range list {
		other := r.(*model.Tap)
		if other.Metadata.Name == t.Metadata.Name || other.Spec.Ring != nil || device(other) != device(t) {
			continue
		}
		for _, w := range tools(other) {
			if slices.ContainsFunc(mine, func(m *model.Workload) bool { return m.Metadata.Name == w.Metadata.Name }) {
				out = append(out, fmt.Sprintf("%s delivers to %s on %s too, and what reads it sees the packets of both; to keep them apart, name another in spec.deliver.device",
					model.Ref(other), device(t), w.Metadata.Name))
				break
			}
		}
	}
	return out
}

func (a *API) toolWarnings(h *model.Host, w *model.Workload, add func(string, ...any)) {
	if h == nil {
		add("tool %s has no agent; install one: weft token create, then weft-agent join", w.Metadata.Name)
		return
	}
	switch s := a.seen.HostStatus(h); s.State {
	case model.HostRevoked:
		add("tool %s is revoked and gets nothing; join it again or choose another", h.Metadata.Name)
	case model.HostOffline:
		since := ""
		if s.LastSeen != nil {
			since = " since " + s.LastSeen.UTC().Format(time.RFC3339)
		}
		add("tool %s is offline%s; copies are dropped and counted until its agent is back", h.Metadata.Name, since)
	}
}

func (a *API) hosts(ctx context.Context) (map[string]*model.Host, error) {
	list, _, err := a.store.List(ctx, model.KindHost)
	if err != nil {
		return nil, err
	}
	hosts := map[string]*model.Host{}
	for _, r := range list {
		hosts[r.Meta().Name] = r.(*model.Host)
	}
	return hosts, nil
}

// capabilities asks what hosts have told, which is not stored with them.
func (a *API) capabilities(hosts map[string]*model.Host) func(string) map[string]string {
	return func(name string) map[string]string {
		if h := hosts[name]; h != nil {
			return a.seen.HostStatus(h).Capabilities
		}
		return nil
	}
}

// incapable returns the hosts among a tap's sources that can do a thing in none of
// the ways that the capabilities name, with the reason of the first. A host that says "no"
// to one and nothing of the others, as an agent older than these does, cannot;
// one that could not tell is given the benefit of the doubt.
func incapable(capabilities func(host string) map[string]string, from []*model.Workload, ways ...string) map[string]string {
	out := map[string]string{}
	for _, w := range from {
		reason, possible := "", false
		have := capabilities(w.Spec.Host)
		for _, way := range ways {
			answer, told := have[way]
			why, no := strings.CutPrefix(answer, "no")
			switch {
			case told && !no:
				possible = true
			case no && reason == "":
				reason = strings.TrimPrefix(why, ": ")
			}
		}
		if !possible && reason != "" {
			out[w.Spec.Host] = reason
		}
	}
	return out
}

func shorten(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// warningHeader writes a warning as RFC 7234, section 5.5 has it.
func warningHeader(text string) string {
	text = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ", "\r", " ").Replace(text)
	return `299 weft "` + text + `"`
}
