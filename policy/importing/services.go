package importing

import (
	"maps"
	"slices"

	"weft/model"
)

// keys is a range of destination ports, or of ICMP types and codes as
// type<<8|code.
type keys struct{ first, last uint16 }

var everyKey = []keys{{0, 65535}}

// services is a set of (protocol, key): those listed of the protocols in only, and
// all or nothing of the others.
type services struct {
	others bool
	only   map[uint8][]keys // sorted, not touching
}

func allServices() services { return services{others: true} }

func serviceOf(protocol uint8, ranges ...keys) services {
	slices.SortFunc(ranges, func(a, b keys) int { return int(a.first) - int(b.first) })
	var out []keys
	for _, k := range ranges {
		if n := len(out); n > 0 && int(k.first) <= int(out[n-1].last)+1 {
			out[n-1].last = max(out[n-1].last, k.last)
			continue
		}
		out = append(out, k)
	}
	return services{only: map[uint8][]keys{protocol: out}}
}

func (s services) of(protocol uint8) []keys {
	if list, ok := s.only[protocol]; ok {
		return list
	}
	if s.others {
		return everyKey
	}
	return nil
}

func (s services) empty() bool {
	if s.others {
		return false
	}
	for _, list := range s.only {
		if len(list) > 0 {
			return false
		}
	}
	return true
}

func (s services) combine(o services, others bool, of func(a, b []keys) []keys) services {
	out := services{others: others, only: map[uint8][]keys{}}
	for _, m := range []map[uint8][]keys{s.only, o.only} {
		for p := range m {
			out.only[p] = of(s.of(p), o.of(p))
		}
	}
	return out
}

func (s services) and(o services) services {
	return s.combine(o, s.others && o.others, func(a, b []keys) []keys {
		var out []keys
		for _, x := range a {
			for _, y := range b {
				if first, last := max(x.first, y.first), min(x.last, y.last); first <= last {
					out = append(out, keys{first, last})
				}
			}
		}
		return out
	})
}

func (s services) without(o services) services {
	return s.combine(o, s.others && !o.others, func(a, b []keys) []keys {
		var out []keys
		for _, x := range a {
			from, gone := int(x.first), false
			for _, y := range b {
				if y.last < x.first || x.last < y.first {
					continue
				}
				if from < int(y.first) {
					out = append(out, keys{uint16(from), y.first - 1})
				}
				from = int(y.last) + 1
				gone = from > int(x.last)
			}
			if !gone {
				out = append(out, keys{uint16(from), x.last})
			}
		}
		return out
	})
}

func (s services) whole() bool { return allServices().without(s).empty() }

// ports returns the set as ports of a rule, nil for everything. zero says that
// port 0 is in the set and cannot be said.
func (s services) ports() (out []model.PolicyPort, zero bool) {
	if s.whole() {
		return nil, false
	}
	protocols := slices.Collect(maps.Keys(s.only))
	if s.others {
		protocols = nil
		for p := range 256 {
			protocols = append(protocols, uint8(p))
		}
	}
	slices.Sort(protocols)
	for _, p := range protocols {
		for _, k := range s.of(p) {
			ports, z := k.ports(p)
			out, zero = append(out, ports...), zero || z
		}
	}
	return out, zero
}

func (k keys) ports(protocol uint8) (out []model.PolicyPort, zero bool) {
	name := model.ProtocolName(protocol)
	first, last := int(k.first), int(k.last)
	switch {
	case k == everyKey[0]:
		return []model.PolicyPort{{Protocol: name}}, false
	case model.IsICMP(protocol):
		for first <= last {
			kind, code := first>>8, first&255
			if code == 0 && last-first >= 255 {
				out = append(out, model.PolicyPort{Protocol: name, ICMP: &model.PolicyICMP{Type: &kind}})
				first += 256
				continue
			}
			out = append(out, model.PolicyPort{Protocol: name, ICMP: &model.PolicyICMP{Type: &kind, Code: &code}})
			first++
		}
		return out, false
	case last == 0:
		return nil, true
	}
	p := model.PolicyPort{Protocol: name}
	low := max(first, 1)
	p.Port = &low
	if last > low {
		p.EndPort = &last
	}
	return []model.PolicyPort{p}, first == 0
}
