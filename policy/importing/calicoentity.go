package importing

import (
	"slices"
	"strings"

	"weft/model"
)

// entityFields are those of one end of a rule.
var entityFields = []string{"selector", "notSelector", "namespaceSelector", "serviceAccounts", "nets", "notNets", "ports", "notPorts"}

// own returns what a rule asks of the subject itself; every says that it asks
// nothing, an empty choice that nobody has it.
func (x *calicoRule) own(c cursor) (some anyOf, every bool) {
	if !c.there() || !c.wantObject() {
		return nil, true
	}
	for _, f := range c.others(entityFields...) {
		x.unsaid(f, "is a field that is not known")
	}
	for _, f := range []string{"nets", "notNets"} {
		if n := c.get(f); len(n.items()) > 0 {
			x.unsaid(n, "names the subject's own address")
		}
	}
	some, given, said := x.workloads(c)
	if !given || !said {
		return nil, true
	}
	if not := c.get("notSelector"); text(not) != "" && len(x.setsOf(x.negated(not))) > 0 || len(x.setsOf(some)) > 0 && text(c.get("selector")) != "all()" {
		// Calico compares addresses: a set of addresses may hold the subject's.
		x.unsaid(c, "may mean the subject by its address in a set of addresses")
		return nil, true
	}
	return some, false
}

// negated is what a notSelector refuses.
func (x *calicoRule) negated(not cursor) anyOf {
	out, _, _ := not.expression(false, workloadKey)
	return out
}

// workloads returns the choice of workloads an end is narrowed to by labels.
func (x *calicoRule) workloads(c cursor) (out anyOf, given, said bool) {
	out, said = anyOf{{}}, true
	add := func(at cursor, some anyOf, ok bool, why string) {
		given = true
		if ok {
			var err error
			if some, err = join(out, some, true); err != nil {
				ok, why = false, err.Error()
			}
		}
		if !ok {
			if why != "" {
				x.unsaid(at, why)
			}
			said = false
			return
		}
		out = some
	}
	positive := false
	if s := c.get("selector"); text(s) != "" {
		some, ok, why := s.expression(false, workloadKey)
		add(s, some, ok, why)
		positive = true
	}
	if s := c.get("notSelector"); text(s) != "" {
		some, ok, why := s.expression(true, workloadKey)
		add(s, some, ok, why)
	}
	if s := c.get("namespaceSelector"); text(s) != "" {
		some, ok, why := s.expression(false, namespaceKey)
		if ok && strings.TrimSpace(s.text()) != "global()" {
			some, _ = join(some, anyOf{selector(exists(namespaceLabel))}, true)
		}
		add(s, some, ok, why)
	} else if positive && x.namespace != "" {
		add(s, anyOf{selector(in(namespaceLabel, x.namespace))}, true, "")
	}
	if s := c.get("serviceAccounts"); s.there() && s.wantObject() {
		names := s.get("names").texts()
		ok := len(names) > 0 && s.knows(x.action, "names") && !slices.ContainsFunc(names, func(n string) bool { return model.CheckLabelValue(n) != nil })
		rs := []model.Requirement{in(serviceAccountLabel, names...)}
		if x.namespace != "" && text(c.get("namespaceSelector")) == "" {
			rs = append(rs, in(namespaceLabel, x.namespace))
		}
		add(s, anyOf{selector(rs...)}, ok, "selects service accounts by their labels, which workloads do not carry")
	}
	return out, given, said
}

// peers returns the other ends; every says that all are meant, an empty list that
// none is.
func (x *calicoRule) peers(c cursor) (list []model.PolicyPeer, every bool) {
	if c.there() && !c.wantObject() {
		return nil, true
	}
	for _, f := range c.others(entityFields...) {
		x.unsaid(f, "is a field that is not known")
	}
	set, hasNets := x.nets(c)
	some, given, said := x.workloads(c)
	switch {
	case !said:
		return nil, true // reported; every peer is the widest
	case given && hasNets:
		x.unsaid(c, "asks for labels and addresses of one peer at once")
		return nil, true
	case given:
		return x.labelled(c, some)
	case hasNets || x.family != nil:
		if x.family != nil {
			set = set.and(x.family)
		}
		return set.peers(), false
	}
	return nil, true
}

// nets returns the addresses an end is narrowed to.
func (x *calicoRule) nets(c cursor) (set addresses, given bool) {
	set = allIPv4.or(allIPv6)
	read := func(list cursor) addresses {
		var out addresses
		for _, n := range list.items() {
			if p, ok := n.prefix(); ok {
				out = out.or(addressesOf(p))
			}
		}
		return out
	}
	if n := c.get("nets"); len(n.items()) > 0 {
		set, given = read(n), true
	}
	if n := c.get("notNets"); len(n.items()) > 0 {
		set, given = set.without(read(n)), true
	}
	return set, given
}

// labelled returns workloads by their labels, sets of addresses by theirs and,
// where labels are only refused, whatever has none.
func (x *calicoRule) labelled(c cursor, some anyOf) (list []model.PolicyPeer, every bool) {
	if x.family != nil {
		x.unsaid(x.at.get("ipVersion"), "narrows peers that labels choose to a family of addresses")
	}
	refused := text(c.get("notSelector")) != ""
	onlyRefused := refused && text(c.get("selector")) == "" && text(c.get("namespaceSelector")) == "" && !c.get("serviceAccounts").there()
	if refused && len(x.sets) > 0 {
		x.unsaid(c.get("notSelector"), "refuses addresses of sets too, and chooses by labels at once")
		return nil, true
	}
	if x.asksNamespaces(some) && slices.ContainsFunc(x.sets, func(s networkSet) bool { return s.labels[namespaceLabel] != "" }) {
		x.unsaid(c.get("namespaceSelector"), "chooses sets of addresses by labels of their namespaces, which the files do not tie to them")
		return nil, true
	}
	for _, s := range some {
		list = append(list, model.PolicyPeer{Selector: &s})
	}
	var addr addresses
	for _, s := range x.setsOf(some) {
		addr = addr.or(s.addr)
	}
	list = append(list, addr.peers()...)
	if onlyRefused {
		list = append(list, model.PolicyPeer{Entities: []model.Entity{model.EntityWorld}})
	}
	return list, false
}

// setsOf returns the sets of addresses that a choice takes.
func (x *calicoRule) setsOf(some anyOf) []networkSet {
	var out []networkSet
	for _, s := range x.sets {
		if slices.ContainsFunc(some, func(c model.Selector) bool { return c.Matches(s.labels) }) {
			out = append(out, s)
		}
	}
	return out
}

// asksNamespaces says whether a choice asks for labels of namespaces.
func (x *calicoRule) asksNamespaces(some anyOf) bool {
	return slices.ContainsFunc(some, func(s model.Selector) bool {
		return slices.ContainsFunc(s.Requirements, func(r model.Requirement) bool { return strings.HasPrefix(r.Key, namespaceLabels) })
	})
}
