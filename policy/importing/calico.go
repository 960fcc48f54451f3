package importing

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"weft/model"
)

// calico is what the files hold of Calico's resources.
type calico struct {
	run  *run
	sets []networkSet
	// tiers by name, with their order.
	tiers map[string]calicoTier
}

type calicoTier struct {
	order float64
	pass  bool // what its policies do not decide goes on to the next tier
}

// networkSet is addresses with labels.
type networkSet struct {
	labels map[string]string
	addr   addresses
}

// calicoPolicy is a GlobalNetworkPolicy, or a NetworkPolicy in its namespace.
type calicoPolicy struct {
	at              cursor
	namespace       string
	tier            string
	order           float64
	untracked       bool // doNotTrack
	subject         anyOf
	in, out         bool // the directions it is for
	ingress, egress []ordered
}

// calico reads Calico's policies, the tiers they are in and sets of addresses.
func (r *run) calico(objects []cursor) {
	k := &calico{run: r, tiers: map[string]calicoTier{
		"default": {order: 1_000_000}}}
	var policies []cursor
	for _, c := range objects {
		kind := c.get("kind").text()
		calicos := c.group() == "projectcalico.org" || c.group() == "crd.projectcalico.org"
		switch {
		case calicos && kind == "Tier":
			k.addTier(c)
		case calicos && (kind == "GlobalNetworkSet" || kind == "NetworkSet"):
			k.addSet(c)
		case calicos && (kind == "GlobalNetworkPolicy" || kind == "NetworkPolicy"):
			policies = append(policies, c)
		case calicos && strings.HasPrefix(kind, "Staged"):
			c.get("kind").find(Same, "is a policy that is not enforced", "it is not read")
		default:
			c.notRead()
		}
	}
	var list []calicoPolicy
	for _, c := range policies {
		if p, ok := k.policy(c); ok {
			list = append(list, p)
		}
	}
	if len(r.faults) > 0 || len(policies) == 0 {
		return
	}
	slices.SortStableFunc(list, func(a, b calicoPolicy) int {
		return cmp.Or(cmp.Compare(k.tiers[a.tier].order, k.tiers[b.tier].order), strings.Compare(a.tier, b.tier),
			cmp.Compare(a.order, b.order), strings.Compare(a.namespace+"/"+a.at.name(), b.namespace+"/"+b.at.name()))
	})
	k.write(list)
	r.allowOtherPods(policies[0])
}

func (k *calico) addTier(c cursor) {
	t := calicoTier{order: math.Inf(1)}
	if o := c.in("spec", "order"); o.there() {
		n, ok := o.float()
		if !ok {
			o.fault("is %s; want a number", o.describe())
		}
		t.order = n
	}
	switch a := c.in("spec", "defaultAction"); a.text() {
	case "", "Deny":
	case "Pass":
		t.pass = true
	default:
		a.fault("is %s; want Deny or Pass", a.describe())
	}
	for _, f := range c.get("spec").others("order", "defaultAction") {
		f.fault("is a field of a tier that is not known; its meaning would be lost, take it out to go on without")
	}
	k.tiers[c.name()] = t
}

func (k *calico) addSet(c cursor) {
	set := networkSet{labels: map[string]string{}}
	for key, v := range c.in("metadata", "labels").labels() {
		if mapped, ok := workloadKey(key); ok {
			set.labels[mapped] = v
		}
	}
	if c.get("kind").text() == "NetworkSet" {
		set.labels[namespaceLabel] = c.namespace()
	}
	for _, n := range c.in("spec", "nets").items() {
		if p, ok := n.prefix(); ok {
			set.addr = set.addr.or(addressesOf(p))
		}
	}
	for _, f := range c.get("spec").others("nets") {
		f.find(Opens, "is a field of a set of addresses that is not known", "it is left out; rules that deny the set do not deny what it names")
	}
	k.sets = append(k.sets, set)
}

// calicoTiers gives each tier in use one of weft's: the tier "default" is
// Application where there is room before and after it.
func (k *calico) calicoTiers(list []calicoPolicy) (map[string]model.Tier, bool) {
	var names []string
	for _, p := range list {
		if !p.untracked && !slices.Contains(names, p.tier) {
			names = append(names, p.tier)
		}
	}
	first := slices.Index(names, "default")
	start := slices.Index(model.Tiers, model.TierApplication) - max(first, 0)
	if first < 0 || start < 0 || start+len(names) > len(model.Tiers) {
		start = 0
	}
	// Untracked rules come before all others and need the first tier.
	if start == 0 && slices.ContainsFunc(list, func(p calicoPolicy) bool { return p.untracked }) && len(names) > 0 {
		start = 1
	}
	if start+len(names) > len(model.Tiers) {
		at := list[len(list)-1].at.in("spec", "tier")
		at.fault("is one tier too many: weft has %d and the policies need %d; import fewer tiers", len(model.Tiers), start+len(names))
		return nil, false
	}
	out := map[string]model.Tier{}
	for i, name := range names {
		out[name] = model.Tiers[start+i]
	}
	return out, true
}

// write makes the policies: in each tier a ladder and, after it, a denial of what
// the tier's policies are for and leave open.
func (k *calico) write(list []calicoPolicy) {
	tiers, ok := k.calicoTiers(list)
	if !ok {
		return
	}
	ladders := map[model.Tier]*ladder{}
	for _, p := range list {
		tier := tiers[p.tier]
		if p.untracked {
			tier = model.TierEmergency
		}
		if ladders[tier] == nil {
			ladders[tier] = &ladder{tier: tier, first: firstRung}
		}
		name := "calico-"
		if p.namespace != "" {
			name += p.namespace + "-"
		}
		d := draft{name: name + p.at.name(), origin: p.at.origin(), subjects: p.subject, stateless: p.untracked, tier: tier}
		ladders[tier].add(d, p.ingress, p.egress)
		if p.untracked || k.tiers[p.tier].pass {
			continue
		}
		deny := []model.PolicyRule{{Name: "rest", Action: model.ActionDeny}}
		d.name, d.priority = d.name+"-rest", lastPriority
		if p.in {
			d.ingress = deny
		}
		if p.out {
			d.egress = deny
		}
		k.run.add(d)
	}
	for _, tier := range model.Tiers {
		if ladders[tier] != nil {
			ladders[tier].flush(k.run)
		}
	}
}
