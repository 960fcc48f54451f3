package importing

import (
	"math"

	"weft/model"
)

// policy reads one; ok is false where nothing of it is to be written.
func (k *calico) policy(c cursor) (p calicoPolicy, ok bool) {
	p = calicoPolicy{at: c, tier: "default", order: math.Inf(1)}
	spec := c.get("spec")
	spec.wantObject()
	if c.get("kind").text() == "NetworkPolicy" {
		p.namespace = c.namespace()
	}
	if spec.get("preDNAT").truth() {
		spec.get("preDNAT").find(Opens, "judges packets before their address is translated", "the policy is left out; weft judges the address the machine's programs see")
		return p, false
	}
	if t := spec.get("tier").text(); t != "" {
		p.tier = t
	}
	if _, known := k.tiers[p.tier]; !known {
		spec.get("tier").fault("the tier %q is not in the files, so its order is not known; add it: calicoctl get tier %s -o yaml", short(p.tier), short(p.tier))
	}
	if o := spec.get("order"); o.there() {
		n, isNumber := o.float()
		if !isNumber {
			o.fault("is %s; want a number", o.describe())
		}
		p.order = n
	}
	if f := spec.get("applyOnForward"); f.truth() {
		f.find(Same, "is also for packets that pass through the host", "weft judges them at their two ends")
	}
	if h := spec.get("performanceHints"); h.there() {
		h.find(Same, "says how to load the policy", "it is not needed")
	}
	whole := true
	for _, f := range spec.others("tier", "order", "selector", "namespaceSelector", "types", "ingress", "egress", "doNotTrack", "preDNAT", "applyOnForward", "performanceHints") {
		f.find(Closes, "narrows the policy in a way weft cannot, or is not known", "the policy is for all its other fields take, and allows nothing")
		whole = false
	}
	p.untracked = spec.get("doNotTrack").truth()
	p.subject, whole = k.subject(c, spec, p.namespace, p.untracked, whole)
	p.in, p.out = calicoTypes(spec)
	if p.in {
		p.ingress = k.rules(spec.get("ingress"), "source", "destination", p.namespace, whole)
	}
	if p.out {
		p.egress = k.rules(spec.get("egress"), "destination", "source", p.namespace, whole)
	}
	return p, true
}

func (k *calico) subject(c, spec cursor, namespace string, untracked, whole bool) (anyOf, bool) {
	out := anyOf{{}}
	for _, s := range []struct {
		field string
		key   func(string) (string, bool)
	}{{"selector", workloadKey}, {"namespaceSelector", namespaceKey}} {
		at := spec.get(s.field)
		if text(at) == "" {
			continue
		}
		some, said, why := at.expression(false, s.key)
		if said && s.field == "namespaceSelector" && at.text() != "global()" {
			some, _ = join(some, anyOf{selector(exists(namespaceLabel))}, true)
		}
		if said {
			var err error
			if out, err = join(out, some, true); err != nil {
				said, why, out = false, err.Error(), anyOf{{}}
			}
		}
		if !said {
			at.find(Closes, why, "the policy is for every endpoint that its other fields take, and allows nothing")
			whole = false
		}
	}
	switch {
	case namespace != "":
		out, _ = join(out, anyOf{selector(in(namespaceLabel, namespace))}, true)
	case untracked: // it is for the hosts' own endpoints only
		out, _ = join(out, anyOf{selector(model.Requirement{Key: namespaceLabel, Operator: model.OpDoesNotExist})}, true)
	}
	return out, whole
}

// calicoTypes are those written, else those that have rules, else ingress.
func calicoTypes(spec cursor) (in, out bool) {
	types := spec.get("types").items()
	if len(types) == 0 {
		out = len(spec.get("egress").items()) > 0
		return !out || len(spec.get("ingress").items()) > 0, out
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
	for _, unused := range []struct {
		is bool
		at cursor
	}{{in, spec.get("ingress")}, {out, spec.get("egress")}} {
		if !unused.is && len(unused.at.items()) > 0 {
			unused.at.find(Same, "lists rules of a direction that types leaves out", "they are left out, as Calico does")
		}
	}
	return in, out
}
