package importing

import (
	"fmt"
	"slices"

	"weft/model"
)

// networkPolicy makes two policies: one allows what the rules say, the other,
// after all of its tier, denies the rest in the directions the policy isolates.
func (r *run) networkPolicy(k *cluster, c cursor) {
	spec := c.get("spec")
	if !spec.wantObject() {
		spec.fault("is missing; a NetworkPolicy has a podSelector")
		return
	}
	whole := true // every condition of the policy itself can be said
	for _, f := range spec.others("podSelector", "policyTypes", "ingress", "egress") {
		f.cannot(model.ActionAllow, "is a field that is not known")
		whole = false
	}
	pods, said := spec.get("podSelector").labelSelector()
	if !said {
		spec.get("podSelector").find(Closes, "selects pods in a way weft's labels cannot", "the policy isolates every pod of the namespace and allows nothing")
		whole, pods = false, nil
	}
	subject := k.inNamespace(c.namespace(), pods)
	in, out := policyTypes(spec)
	d := draft{name: "np-" + c.namespace() + "-" + c.name(), origin: c.origin(), tier: networkPolicyTier, priority: model.DefaultPriority, subjects: subject.selectors}
	rest := d
	rest.name, rest.priority = d.name+"-rest", lastPriority
	deny := []model.PolicyRule{{Name: "rest", Action: model.ActionDeny}}
	if in {
		d.ingress, rest.ingress = r.networkPolicyRules(k, c, spec.get("ingress"), "from", subject), deny
	}
	if out {
		d.egress, rest.egress = r.networkPolicyRules(k, c, spec.get("egress"), "to", subject), deny
	}
	for _, unused := range []struct {
		is bool
		at cursor
	}{{in, spec.get("ingress")}, {out, spec.get("egress")}} {
		if !unused.is && len(unused.at.items()) > 0 {
			unused.at.find(Same, "lists rules of a direction that policyTypes leaves out", "they are left out, as Kubernetes does")
		}
	}
	if !whole {
		d.ingress, d.egress = nodeRule(d.ingress, "from"), nodeRule(d.egress, "to")
	}
	r.add(d)
	r.add(rest)
}

// policyTypes returns the directions in which the policy isolates: ingress
// always, and egress where it has such rules, unless it says so itself.
func policyTypes(spec cursor) (in, out bool) {
	types := spec.get("policyTypes").items()
	if len(types) == 0 {
		return true, len(spec.get("egress").items()) > 0
	}
	for _, t := range types {
		switch t.text() {
		case "Ingress":
			in = true
		case "Egress":
			out = true
		default:
			t.fault("is %s; want Ingress or Egress", t.describe())
		}
	}
	return in, out
}

// nodeRule is what no NetworkPolicy can stop: the pod's own node, and itself.
func nodeRule(rules []model.PolicyRule, side string) []model.PolicyRule {
	if rules == nil {
		return nil
	}
	peers := []model.PolicyPeer{{Entities: []model.Entity{model.EntityHost, model.EntitySelf}}}
	return []model.PolicyRule{sided(model.PolicyRule{Name: "node", Action: model.ActionAllow}, side, peers)}
}

func sided(rule model.PolicyRule, side string, peers []model.PolicyPeer) model.PolicyRule {
	if side == "from" {
		rule.From = peers
	} else {
		rule.To = peers
	}
	return rule
}

func (r *run) networkPolicyRules(k *cluster, c, list cursor, side string, subject podSet) []model.PolicyRule {
	out := nodeRule([]model.PolicyRule{}, side)
	for i, item := range list.items() {
		if !item.wantObject() && item.there() {
			continue
		}
		known := true
		for _, f := range item.others(side, "ports") {
			f.cannot(model.ActionAllow, "is a field that is not known")
			known = false
		}
		peers := k.networkPolicyPeers(c, item.get(side))
		for j, one := range k.withPorts(item.get("ports"), peers, side, subject) {
			if known {
				one.Name = fmt.Sprintf("rule-%d", i)
				if j > 0 {
					one.Name += fmt.Sprintf("-%d", j)
				}
				out = append(out, one)
			}
		}
	}
	return out
}

// peerList is the other ends of a rule.
type peerList struct {
	any       bool // every end
	selectors []model.PolicyPeer
	blocks    []model.PolicyPeer // and whatever else is no pod
	has       []func(*pod) bool
}

func (p *peerList) covers(x *pod) bool {
	return p.any || slices.ContainsFunc(p.has, func(has func(*pod) bool) bool { return has(x) })
}

func (k *cluster) networkPolicyPeers(c, list cursor) *peerList {
	items := list.items()
	out := &peerList{any: len(items) == 0}
	for _, item := range items {
		if !item.wantObject() {
			item.fault("is empty; want podSelector, namespaceSelector or ipBlock")
			continue
		}
		known := true
		for _, f := range item.others("podSelector", "namespaceSelector", "ipBlock") {
			f.cannot(model.ActionAllow, "is a kind of peer that is not known")
			known = false
		}
		pods, namespaces, block := item.get("podSelector"), item.get("namespaceSelector"), item.get("ipBlock")
		switch {
		case block.there() && (pods.there() || namespaces.there()):
			block.fault("stands beside a selector; make it a peer of its own")
		case block.there():
			if set, said := block.ipBlock(); said && known {
				out.blocks = append(out.blocks, set.peers()...)
			}
		case pods.there() || namespaces.there():
			if set, said := k.podPeer(c, pods, namespaces); said && known {
				out.addPods(set)
			}
		case known:
			item.fault("has no podSelector, namespaceSelector or ipBlock; leave %s out to take every peer", list.path)
		}
	}
	return out
}

func (p *peerList) addPods(set podSet) {
	p.has = append(p.has, set.has)
	for _, s := range set.selectors {
		p.selectors = append(p.selectors, model.PolicyPeer{Selector: &s})
	}
}

func (k *cluster) podPeer(c, pods, namespaces cursor) (podSet, bool) {
	wanted, said := pods.labelSelector()
	if !said {
		pods.cannot(model.ActionAllow, "selects pods in a way weft's labels cannot")
		return podSet{}, false
	}
	if !namespaces.there() {
		return k.inNamespace(c.namespace(), wanted), true
	}
	ns, said := namespaces.labelSelector()
	if !said {
		namespaces.cannot(model.ActionAllow, "selects namespaces in a way weft's labels cannot")
		return podSet{}, false
	}
	return k.choose(namespaces, wanted, ns), true
}

// ipBlock returns the addresses of a block without its exceptions.
func (c cursor) ipBlock() (addresses, bool) {
	if !c.wantObject() {
		return nil, false
	}
	known := true
	for _, f := range c.others("cidr", "except") {
		f.cannot(model.ActionAllow, "is a field that is not known")
		known = false
	}
	outer, ok := c.get("cidr").prefix()
	if !ok {
		return nil, false
	}
	set := addressesOf(outer)
	for _, e := range c.get("except").items() {
		inner, ok := e.prefix()
		switch {
		case !ok:
			return nil, false
		case inner.Bits() <= outer.Bits() || !outer.Contains(inner.Addr()):
			e.fault("%s is not within %s; an exception is a part of its block", inner, outer)
			return nil, false
		}
		set = set.without(addressesOf(inner))
	}
	return set, known
}
