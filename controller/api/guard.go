package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"weft/controller/plan"
	"weft/model"
	"weft/policy"
)

// The Failsafe tier is tried before all others, so that no policy cuts a host or a
// service off from the control plane, and no rule for egress needs a guard there.
// It does not cover the other end, since it cannot know where that is: the machine
// on which this controller (or a relay) runs may have an agent too, and its
// ingress is policy's. Nor does it cover an agent that runs in a container.
// These are what the guard judges, before and after a change.

// way is one thing that has to go on reaching another.
type way struct {
	what     string
	source   policy.End
	target   policy.End
	port     int
	protocol uint8
}

// guardFleet refuses a change of policy that would cut agents off, unless forced,
// and one that a host could not hold, in any case.
func (a *API) guardFleet(ctx context.Context, r model.Resource, deleted, force bool) error {
	switch r.(type) {
	case *model.Policy, *model.Group:
	default:
		return nil
	}
	before, err := a.fleet(ctx)
	if err != nil {
		return err
	}
	after := before.without(r)
	if !deleted {
		switch r := r.(type) {
		case *model.Policy:
			after = before.over([]*model.Policy{r}, nil)
		case *model.Group:
			after = before.over(nil, []*model.Group{r})
		}
	}
	list, err := worlds(nil, before, after)
	if err != nil {
		return err
	}
	if !force {
		if err := a.guardChannel(before, list[0], list[1]); err != nil {
			return err
		}
	}
	if deleted {
		return nil
	}
	return guardTables(after, list[1], r)
}

// guardChannel refuses a change that would cut agents off.
func (a *API) guardChannel(f *fleet, before, after *plan.World) error {
	was, is := before.At(model.StageActive), after.At(model.StageActive)
	var cut []string
	seen := map[string]bool{}
	for _, w := range a.ways(f, before) {
		p := newPacket(w.source, w.target, w.protocol, uint16(w.port))
		verdict := is.EvaluateBoth(p)
		if verdict.Action() == model.ActionAllow || was.EvaluateBoth(p).Action() != model.ActionAllow {
			continue
		}
		by := verdict.Ingress
		if !verdict.Egress.Allowed() {
			by = verdict.Egress
		}
		if text := fmt.Sprintf("TCP/%d of %s: %s", w.port, w.what, by); !seen[text] {
			seen[text] = true
			cut = append(cut, text)
		}
	}
	if len(cut) == 0 {
		return nil
	}
	return problem(http.StatusConflict, "this would cut agents off: %s; allow that first, or force it", shorten(cut))
}

// ways lists what agents need of the fleet.
func (a *API) ways(f *fleet, w *plan.World) []way {
	local := a.cfg.Addresses()
	var agents []policy.Identity // who calls: hosts, each identity once, and the world
	for _, wl := range f.workloads {
		if id := w.ByWorkload[wl.Metadata.Name]; wl.Spec.Kind == model.WorkloadHost && !slices.Contains(agents, id) {
			agents = append(agents, id)
		}
	}
	agents = append(agents, 0)
	var out []way
	ends := func(what string, target *model.Workload, port int) {
		for _, id := range agents {
			out = append(out, way{what: what, port: port, protocol: 6,
				source: policy.End{Identity: id, Addr: netip.MustParseAddr("192.0.2.1"), Entities: policy.EntityBit(model.EntityHost)},
				target: policy.End{Identity: w.ByWorkload[target.Metadata.Name], Addr: netip.MustParseAddr("192.0.2.2"), Entities: policy.EntityBit(model.EntityControlPlane) | policy.EntityBit(model.EntityRelay)}})
		}
	}
	for _, wl := range f.workloads {
		host := f.host(wl.Spec.Host)
		switch {
		case host != nil && f.has(host, local) && ours(wl):
			ends(fmt.Sprintf("%s, where this controller listens", wl.Metadata.Name), wl, a.cfg.Failsafe.ControllerPort)
		case wl.Spec.Kind == model.WorkloadContainer && isAgent(wl):
			out = append(out, way{what: fmt.Sprintf("the agent in %s", wl.Metadata.Name), port: a.cfg.Failsafe.ControllerPort, protocol: 6,
				source: policy.End{Identity: w.ByWorkload[wl.Metadata.Name], Addr: netip.MustParseAddr("192.0.2.1")},
				target: policy.End{Addr: netip.MustParseAddr("192.0.2.2"), Entities: policy.EntityBit(model.EntityControlPlane)}})
		}
		for _, relay := range f.relays {
			for _, text := range relay.Spec.Addresses {
				name, port, err := net.SplitHostPort(text)
				addr, notIP := netip.ParseAddr(name)
				n, noPort := strconv.Atoi(port)
				if err == nil && notIP == nil && noPort == nil && !relay.Spec.Revoked && host != nil && f.has(host, []netip.Addr{addr.Unmap()}) && ours(wl) {
					ends(fmt.Sprintf("%s, where relay %s listens", wl.Metadata.Name, relay.Metadata.Name), wl, n)
				}
			}
		}
	}
	return out
}

func (f *fleet) host(name string) *model.Workload {
	i := slices.IndexFunc(f.workloads, func(w *model.Workload) bool { return w.Spec.Kind == model.WorkloadHost && w.Spec.Host == name })
	if i < 0 {
		return nil
	}
	return f.workloads[i]
}

func (f *fleet) has(host *model.Workload, addrs []netip.Addr) bool {
	return slices.ContainsFunc(f.ofWorkload(host).addrs, func(a netip.Addr) bool { return slices.Contains(addrs, a) })
}

// ours says whether a workload may be weft's own program: the machine itself, or
// a service or a container that is named so.
func ours(w *model.Workload) bool {
	return w.Spec.Kind == model.WorkloadHost || named(w, "weft")
}

func isAgent(w *model.Workload) bool { return named(w, "weft-agent") }

func named(w *model.Workload, part string) bool {
	_, name, _ := strings.Cut(w.Metadata.Name, ":")
	image := ""
	if w.Spec.Container != nil {
		image = w.Spec.Container.Image
	}
	return strings.Contains(name, part) || strings.Contains(image, part)
}

// localAddresses are those of this machine, where agents reach the controller.
func localAddresses() []netip.Addr {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil // then there is nothing to compare with
	}
	var out []netip.Addr
	for _, n := range list {
		if p, err := netip.ParsePrefix(n.String()); err == nil && p.Addr().IsGlobalUnicast() {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}
