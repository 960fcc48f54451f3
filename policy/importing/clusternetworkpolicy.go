package importing

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"weft/model"
)

// clusterPolicy is a ClusterNetworkPolicy, or one of the older kinds it replaced:
// AdminNetworkPolicy and BaselineAdminNetworkPolicy.
type clusterPolicy struct {
	at              cursor
	baseline        bool
	priority        int
	subject         podSet
	ingress, egress []ordered
}

// clusterLadder orders policies by priority. Where two have the same, Kubernetes
// leaves open which is first.
func (r *run) clusterLadder(tier model.Tier, list []clusterPolicy) {
	slices.SortStableFunc(list, func(a, b clusterPolicy) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), strings.Compare(a.at.name(), b.at.name()))
	})
	l := ladder{tier: tier, first: firstRung}
	for i, p := range list {
		if i > 0 && list[i-1].priority == p.priority {
			p.at.in("spec", "priority").find(Same, "is the priority of "+list[i-1].at.object+" too; Kubernetes leaves the order open", "they are taken in the order of their names")
		}
		prefix := "cnp-"
		if p.baseline {
			prefix = "cnp-baseline-"
		}
		l.add(draft{name: prefix + p.at.name(), origin: p.at.origin(), subjects: p.subject.selectors}, p.ingress, p.egress)
	}
	l.flush(r)
}

func (r *run) clusterPolicy(k *cluster, c cursor) clusterPolicy {
	p := clusterPolicy{at: c}
	spec, kind := c.get("spec"), c.get("kind").text()
	if !spec.wantObject() {
		spec.fault("is missing; the policy has a subject")
		return p
	}
	said := true
	known := []string{"subject", "ingress", "egress", "priority", "tier"}
	switch kind {
	case "ClusterNetworkPolicy":
		switch t := spec.get("tier"); t.text() {
		case "Admin":
		case "Baseline":
			p.baseline = true
		default:
			t.fault("is %s; want Admin or Baseline", t.describe())
		}
	case "BaselineAdminNetworkPolicy":
		p.baseline, known = true, known[:3]
	default:
		known = known[:4]
	}
	for _, f := range spec.others(known...) {
		f.find(Closes, "is a field that is not known", "the policy allows nothing, and its other rules deny everything")
		said = false
	}
	if kind != "BaselineAdminNetworkPolicy" {
		var ok bool
		if p.priority, ok = spec.get("priority").whole(0, 1000); !ok && !spec.get("priority").there() {
			spec.get("priority").fault("is missing; write a number from 0 to 1000, lower first")
		}
	}
	subject := spec.get("subject")
	set, ok := k.namespacedPods(c, subject)
	if !ok {
		subject.find(Closes, "selects pods in a way weft cannot", "the policy is for every pod; it allows nothing, and its other rules deny everything")
		set, said = k.choose(subject, nil, nil), false
	}
	p.subject = set
	p.ingress = r.clusterRules(k, c, spec.get("ingress"), "from", set, said)
	p.egress = r.clusterRules(k, c, spec.get("egress"), "to", set, said)
	return p
}

// namespacedPods reads {namespaces: SELECTOR} or {pods: {namespaceSelector,
// podSelector}}.
func (k *cluster) namespacedPods(c, at cursor) (podSet, bool) {
	if !at.wantObject() {
		at.fault("is missing; want namespaces or pods")
		return podSet{}, true
	}
	if len(at.others("namespaces", "pods")) > 0 {
		return podSet{}, false
	}
	namespaces, pods := at.get("namespaces"), at.get("pods")
	switch {
	case namespaces.value != nil && pods.value != nil:
		at.fault("has namespaces and pods; want one of them")
	case namespaces.value != nil:
		if len(namespaces.others("matchLabels", "matchExpressions")) > 0 {
			return podSet{}, false
		}
		ns, said := namespaces.labelSelector()
		return k.choose(namespaces, nil, ns), said
	case pods.value != nil:
		ns, a := pods.get("namespaceSelector").labelSelector()
		wanted, b := pods.get("podSelector").labelSelector()
		return k.choose(pods.get("namespaceSelector"), wanted, ns), a && b && len(pods.others("namespaceSelector", "podSelector")) == 0
	default:
		return podSet{}, false
	}
	return podSet{}, true
}

// clusterRules reads the rules of a direction. Where something cannot be said,
// Accept allows nothing and the others deny everything, which is also what the
// definition of these policies asks of whoever does not know a field.
func (r *run) clusterRules(k *cluster, c, list cursor, side string, subject podSet, said bool) []ordered {
	var out []ordered
	for i, item := range list.items() {
		if !item.wantObject() {
			item.fault("is empty; want action and %s", side)
			continue
		}
		rule := model.PolicyRule{Name: cmp.Or(item.get("name").text(), fmt.Sprintf("rule-%d", i))}
		whole := said
		switch a := item.get("action"); a.text() {
		case "Accept", "Allow":
			rule.Action = model.ActionAllow
		case "Deny":
			rule.Action = model.ActionDeny
		case "Pass":
			rule.Action = model.ActionPass
		default:
			a.fault("is %s; want Accept (before v1alpha2 Allow), Deny or Pass", a.describe())
			continue
		}
		for _, f := range item.others("name", "action", side, "ports", "protocols") {
			f.cannot(rule.Action, "is a field that is not known")
			whole = false
		}
		peers, ok := k.clusterPeers(c, item.get(side), rule.Action)
		whole = whole && ok
		has := subject.has
		if side == "to" {
			has = peers.covers
		}
		if len(peers.blocks) > 0 && namesPort(item) {
			item.fault("has named ports beside networks, nodes or domainNames, which have none; make it two rules")
			continue
		}
		ports, ok := k.clusterPorts(item, rule.Action, has)
		if !whole || !ok {
			if rule.Action != model.ActionAllow {
				out = append(out, ordered{rule: model.PolicyRule{Name: rule.Name, Action: model.ActionDeny}})
			} else if whole && len(ports) > 0 {
				rule.Ports = ports
				out = appendSided(out, rule, side, peers)
			}
			continue
		}
		rule.Ports = ports
		out = appendSided(out, rule, side, peers)
	}
	return out
}

func appendSided(out []ordered, rule model.PolicyRule, side string, peers *peerList) []ordered {
	all := append(append([]model.PolicyPeer{}, peers.selectors...), peers.blocks...)
	if len(all) == 0 { // selects nothing
		return out
	}
	return append(out, ordered{rule: sided(rule, side, all)})
}

// clusterPeers returns the peers that can be said, and whether that is all. Of
// a rule that allows, the others may be left out.
func (k *cluster) clusterPeers(c, list cursor, action model.Action) (*peerList, bool) {
	out, whole := &peerList{}, true
	items := list.items()
	if len(items) == 0 {
		list.fault("is missing; want at least one peer")
	}
	for _, item := range items {
		said := false
		switch {
		case !item.value.isObject() || len(item.value.order) != 1:
			item.fault("is %s with %d fields; want one of namespaces, pods, nodes, networks, domainNames", item.describe(), len(item.value.order))
			continue
		case item.get("networks").there():
			said = true
			var set addresses
			for _, n := range item.get("networks").items() {
				if p, ok := n.prefix(); ok {
					set = set.or(addressesOf(p))
				}
			}
			out.blocks = append(out.blocks, set.peers()...)
		case item.get("nodes").value != nil:
			var nodes []model.Requirement
			nodes, said = item.get("nodes").labelSelector()
			for i := range nodes {
				nodes[i].Key = nodeLabels + nodes[i].Key
			}
			s := selector(append(nodes, exists(nodeLabel))...)
			if said {
				item.get("nodes").find(Same, "selects nodes by their addresses", "it selects workloads labelled "+nodeLabel+"; label the nodes' hosts")
				out.blocks = append(out.blocks, model.PolicyPeer{Selector: &s})
			}
		case item.get("domainNames").there() && action == model.ActionAllow && strings.HasSuffix(list.path, ".to"):
			said = true
			var names []string
			for _, n := range item.get("domainNames").items() {
				if name := strings.TrimSuffix(strings.ToLower(n.text()), "."); isDomain(name) {
					names = append(names, name)
				} else {
					n.fault(`%q is no domain name; write it like "example.org" or "*.example.org"`, short(n.text()))
				}
			}
			out.blocks = append(out.blocks, model.PolicyPeer{DomainNames: names})
		case item.get("namespaces").value != nil || item.get("pods").value != nil:
			var set podSet
			if set, said = k.namespacedPods(c, item); said {
				out.addPods(set)
			}
		}
		if !said {
			item.cannot(action, "is a kind of peer that weft does not know, or one weft's labels cannot name")
			whole = whole && action == model.ActionAllow
		}
	}
	return out, whole
}

func namesPort(rule cursor) bool {
	for _, list := range []cursor{rule.get("protocols"), rule.get("ports")} {
		for _, item := range list.items() {
			if item.get("namedPort").there() || item.get("destinationNamedPort").there() {
				return true
			}
		}
	}
	return false
}

// isDomain says whether a policy can have the name.
func isDomain(name string) bool {
	p := model.Policy{Metadata: model.Metadata{Name: "x"}, Spec: model.PolicySpec{Subject: model.PolicySubject{Selector: &model.Selector{}},
		Egress: []model.PolicyRule{{Action: model.ActionAllow, To: []model.PolicyPeer{{DomainNames: []string{name}}}}}}}
	return p.Validate() == nil
}
