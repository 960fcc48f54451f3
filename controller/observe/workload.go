package observe

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"weft/controller/plan"
	"weft/model"
	"weft/wire/wirepb"
)

// Labels that every workload carries.
const (
	LabelKind = plan.LabelKind
	LabelHost = plan.LabelHost
)

// Workloads returns everything on every host that is not revoked, as last
// reported, sorted by name. List and workloads are shared: change neither.
func (o *Observer) Workloads() []*model.Workload {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all()
}

func (o *Observer) all() []*model.Workload {
	o.takeStock()
	return o.inventoried.workloads
}

// describe makes the resources of one host's workloads.
func (h *host) describe(r *model.Host, claims model.Claims) []*model.Workload {
	own := hostLabels(r, h.facts, claims)
	inherited := map[string]string{}
	for k, v := range own {
		if strings.HasPrefix(k, "cloud.") || strings.HasPrefix(k, "host.") || strings.HasPrefix(k, "os.") {
			inherited[k] = v
		}
	}
	taken := map[string]bool{}
	var out []*model.Workload
	for _, id := range slices.Sorted(maps.Keys(h.workloads)) {
		w := h.workloads[id]
		labels := maps.Clone(inherited)
		copyClaimed(labels, w.Labels, claims)
		name := workloadName(r, w)
		if model.WorkloadKind(w.Kind) == model.WorkloadHost {
			maps.Copy(labels, own) // what people said of the host goes over what the agent reports
		}
		for taken[name] { // two containers may have one name, in two engines
			name += "+"
		}
		taken[name] = true
		labels[LabelKind], labels[LabelHost] = w.Kind, r.Metadata.Name
		out = append(out, workload(r, w, name, labels))
	}
	return out
}

// hostLabels are those of the host itself: what the agent found, then what the
// join token gave (kept in the host's metadata), then what a person wrote.
func hostLabels(r *model.Host, f *wirepb.HostFacts, claims model.Claims) map[string]string {
	labels := map[string]string{}
	copyClaimed(labels, f.GetLabels(), claims)
	maps.Copy(labels, r.Metadata.Labels)
	maps.Copy(labels, r.Spec.Labels)
	labels[LabelHost] = r.Metadata.Name
	return labels
}

func workloadName(r *model.Host, w *wirepb.Workload) string {
	if model.WorkloadKind(w.Kind) == model.WorkloadHost {
		return r.Metadata.Name
	}
	return r.Metadata.Name + ":" + cmp.Or(w.Name, w.Id)
}

func workload(r *model.Host, w *wirepb.Workload, name string, labels map[string]string) *model.Workload {
	out := model.MustKind(model.KindWorkload).New().(*model.Workload)
	out.Metadata = model.Metadata{Name: name, UID: plan.WorkloadUID(r.Metadata.UID, w.Id), Labels: labels}
	out.Spec = model.WorkloadSpec{Host: r.Metadata.Name, Kind: model.WorkloadKind(w.Kind), Cgroup: w.Cgroup,
		Addresses: slices.Clone(w.Addresses), Interfaces: slices.Clone(w.Interfaces)}
	if w.ContainerId != "" || w.ContainerRuntime != "" {
		out.Spec.Container = &model.Container{ID: w.ContainerId, Name: w.ContainerName, Image: w.ContainerImage, Runtime: w.ContainerRuntime}
	}
	return out
}

func interfaces(f *wirepb.HostFacts) []model.Interface {
	out := make([]model.Interface, len(f.GetInterfaces()))
	for i, n := range f.GetInterfaces() {
		out[i] = model.Interface{Name: n.Name, MAC: n.Mac, MTU: int(n.Mtu), Addresses: slices.Clone(n.Addresses), Uplink: n.Uplink}
	}
	return out
}

// Members returns who is in a group of that spec at this moment, by name. The
// error names a group that does not exist, or a circle.
func (o *Observer) Members(spec model.GroupSpec) ([]*model.Workload, error) {
	r, err := o.resolver()
	if err != nil {
		return nil, err
	}
	return r.Members(spec)
}

// PreviewTap returns what a tap of that spec would join at this moment.
func (o *Observer) PreviewTap(spec model.TapSpec) (sources, tools []*model.Workload, err error) {
	r, err := o.resolver()
	if err != nil {
		return nil, nil, err
	}
	return r.Tap(spec)
}

func (o *Observer) resolver() (*plan.Resolver, error) {
	o.mu.Lock()
	groups, workloads := o.intent.Groups, o.all()
	o.mu.Unlock()
	if o.deps.Groups != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stored, err := o.deps.Groups(ctx)
		if err != nil {
			return nil, err
		}
		groups = stored
	}
	return plan.NewResolver(groups, workloads), nil
}
