package importing

import (
	"net/netip"
	"slices"
	"strings"
)

// Below is what Calico's policies mean, as its resource reference states it,
// without anything of weft.

type calExpr struct {
	text  string
	holds func(labels map[string]string) bool
}

type calEntity struct {
	sel, notSel, ns *calExpr
	nets, notNets   []string
	ports, notPorts [][2]int
}

type calRule struct {
	action, protocol string
	ipVersion        int
	peer             calEntity
	own              *calExpr
}

type calPolicy struct {
	ns, name, tier  string
	order           *float64
	sel, nsSel      *calExpr
	types           []string
	ingress, egress []calRule
}

type calTier struct {
	name string
	pass bool
}

type calSet struct {
	labels map[string]string
	nets   []string
}

type calWorld struct {
	tiers      []calTier // in their order
	policies   []calPolicy
	sets       []calSet
	namespaces map[string]map[string]string
}

func (w *calWorld) labels(n *node) map[string]string {
	out := map[string]string{"projectcalico.org/namespace": n.ns}
	for k, v := range n.labels {
		out[k] = v
	}
	return out
}

func (w *calWorld) allowed(p probe) bool {
	return w.side(p, p.from, p.to, "Egress") && w.side(p, p.to, p.from, "Ingress")
}

func (w *calWorld) side(p probe, subject, peer *node, direction string) bool {
	if subject.ns == "" {
		return true
	}
tiers:
	for _, tier := range w.tiers {
		var list []calPolicy
		for _, x := range w.policies {
			if x.tier == tier.name && slices.Contains(x.types, direction) && (x.ns == "" || x.ns == subject.ns) && x.sel.holds(w.labels(subject)) && (x.nsSel == nil || x.nsSel.holds(w.namespaces[subject.ns])) {
				list = append(list, x)
			}
		}
		slices.SortStableFunc(list, func(a, b calPolicy) int {
			switch {
			case a.order != nil && b.order != nil && *a.order != *b.order:
				if *a.order < *b.order {
					return -1
				}
				return 1
			case a.order != nil && b.order == nil:
				return -1
			case a.order == nil && b.order != nil:
				return 1
			}
			return strings.Compare(a.ns+"/"+a.name, b.ns+"/"+b.name)
		})
		for _, x := range list {
			rules := x.ingress
			if direction == "Egress" {
				rules = x.egress
			}
			for _, r := range rules {
				if !w.matches(r, x.ns, p, subject, peer) {
					continue
				}
				switch r.action {
				case "Allow":
					return true
				case "Deny":
					return false
				case "Pass":
					continue tiers
				}
			}
		}
		if len(list) > 0 && !tier.pass {
			return false
		}
	}
	return true // the namespace's profile
}

func (w *calWorld) matches(r calRule, ns string, p probe, subject, peer *node) bool {
	if r.protocol != "" && protocolNames[p.protocol] != r.protocol || r.ipVersion == 4 && !peer.addr.Is4() || r.ipVersion == 6 && peer.addr.Is4() {
		return false
	}
	in := func(list [][2]int) bool {
		return slices.ContainsFunc(list, func(x [2]int) bool { return x[0] <= int(p.port) && int(p.port) <= x[1] })
	}
	e := r.peer
	if e.ports != nil && !in(e.ports) || e.notPorts != nil && in(e.notPorts) || r.own != nil && !r.own.holds(w.labels(subject)) {
		return false
	}
	within := func(list []string) bool {
		return slices.ContainsFunc(list, func(x string) bool { return netip.MustParsePrefix(x).Contains(peer.addr) })
	}
	if e.nets != nil && !within(e.nets) || e.notNets != nil && within(e.notNets) {
		return false
	}
	if e.sel != nil || e.ns != nil {
		hit := false
		if peer.ns != "" {
			hit = (e.sel == nil || e.sel.holds(w.labels(peer))) && (e.ns == nil || e.ns.holds(w.namespaces[peer.ns])) && (ns == "" || e.ns != nil || peer.ns == ns)
		}
		for _, s := range w.sets { // global sets: in no namespace
			hit = hit || ns == "" && e.ns == nil && e.sel.holds(s.labels) && within(s.nets)
		}
		if !hit {
			return false
		}
	}
	return e.notSel == nil || peer.ns == "" || !e.notSel.holds(w.labels(peer))
}
