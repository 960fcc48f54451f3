package session

import (
	"cmp"
	"slices"

	"weft/controller/plan"
	"weft/model"
)

// intent is what the store holds, kept up to date by a watch: each list is sorted
// by name and replaced where it changes.
type intent struct {
	hosts    []*model.Host
	relays   []*model.Relay
	groups   []*model.Group
	policies []*model.Policy
	taps     []*model.Tap
	rules    []*model.AlertRule
	probes   []*model.Probe
}

// set puts a resource in place of the one of its name; nil takes that out.
func (i *intent) set(kind model.Kind, name string, r model.Resource) {
	switch kind {
	case model.KindHost:
		put(&i.hosts, name, r)
	case model.KindRelay:
		put(&i.relays, name, r)
	case model.KindGroup:
		put(&i.groups, name, r)
	case model.KindPolicy:
		put(&i.policies, name, r)
	case model.KindTap:
		put(&i.taps, name, r)
	case model.KindAlertRule:
		put(&i.rules, name, r)
	case model.KindProbe:
		put(&i.probes, name, r)
	}
}

// fill takes over all resources of a kind.
func (i *intent) fill(kind model.Kind, list []model.Resource) {
	switch kind {
	case model.KindHost:
		i.hosts = sorted[*model.Host](list)
	case model.KindRelay:
		i.relays = sorted[*model.Relay](list)
	case model.KindGroup:
		i.groups = sorted[*model.Group](list)
	case model.KindPolicy:
		i.policies = sorted[*model.Policy](list)
	case model.KindTap:
		i.taps = sorted[*model.Tap](list)
	case model.KindAlertRule:
		i.rules = sorted[*model.AlertRule](list)
	case model.KindProbe:
		i.probes = sorted[*model.Probe](list)
	}
}

func sorted[R model.Resource](list []model.Resource) []R {
	out := make([]R, len(list))
	for n, r := range list {
		out[n] = r.(R)
	}
	slices.SortFunc(out, func(a, b R) int { return cmp.Compare(a.Meta().Name, b.Meta().Name) })
	return out
}

func put[R interface {
	comparable
	model.Resource
}](list *[]R, name string, r model.Resource) {
	var gone, come []R
	at, there := slices.BinarySearchFunc(*list, name, func(r R, name string) int { return cmp.Compare(r.Meta().Name, name) })
	if there {
		gone = (*list)[at : at+1]
	}
	if r != nil {
		come = []R{r.(R)}
	}
	*list = plan.Splice(*list, gone, come)
}
