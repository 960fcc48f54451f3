package importing

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"weft/model"
)

// sourceAnnotation says where a policy is from.
const sourceAnnotation = "imported/from"

// lastPriority is where "whatever is left is denied" stands: after every rule of
// its tier.
const lastPriority = model.MaxPriority

// origin is where a policy is from.
type origin struct {
	file   string
	line   int
	object string
}

func (o origin) String() string { return fmt.Sprintf("%s:%d %s", o.file, o.line, o.object) }

// draft is a policy to be made, once for each of its subjects.
type draft struct {
	name      string
	origin    origin
	tier      model.Tier
	priority  int
	subjects  []model.Selector
	stateless bool
	// Directions without rules are left out; the rest denies by rule.
	ingress, egress []model.PolicyRule
}

// add makes the policies of a draft, more than one where there is too much for one.
func (r *run) add(d draft) {
	d.ingress, d.egress = split(d.ingress, false), split(d.egress, true)
	if r.rules += (len(d.ingress) + len(d.egress)) * len(d.subjects); r.rules > maxRules {
		r.fault(d.origin.file, d.origin.line, "", "makes more than %d rules; import fewer objects at a time", maxRules)
		return
	}
	for _, subject := range d.subjects {
		in, out := d.ingress, d.egress
		for len(in)+len(out) > 0 {
			n := min(len(in), model.MaxPolicyRules)
			m := min(len(out), model.MaxPolicyRules-n)
			r.addOne(d, subject, in[:n:n], out[:m:m])
			in, out = in[n:], out[m:]
		}
	}
}

func (r *run) addOne(d draft, subject model.Selector, in, out []model.PolicyRule) {
	if r.options.Subject != nil {
		subject = and(subject, *r.options.Subject)
	}
	p := &model.Policy{
		TypeMeta: model.TypeMeta{APIVersion: model.APIVersion, Kind: model.KindPolicy},
		Metadata: model.Metadata{Name: r.name(d.name), Annotations: map[string]string{sourceAnnotation: d.origin.String()}},
		Spec: model.PolicySpec{Tier: d.tier, Priority: &d.priority, Stage: model.StageStaged,
			Subject: model.PolicySubject{Selector: &subject}, Ingress: nameRules(in), Egress: nameRules(out)},
	}
	if d.stateless {
		p.Spec.Stateful = new(bool)
	}
	r.policies, r.origins = append(r.policies, p), append(r.origins, d.origin)
}

// split cuts rules that have more peers or ports than one may have.
func split(rules []model.PolicyRule, egress bool) []model.PolicyRule {
	var out []model.PolicyRule
	for _, rule := range rules {
		peers := rule.From
		if egress {
			peers = rule.To
		}
		for _, some := range chunks(peers, model.MaxRulePeers) {
			for _, ports := range chunks(rule.Ports, model.MaxRulePorts) {
				one := model.PolicyRule{Name: rule.Name, Action: rule.Action, From: some, Ports: ports}
				if egress {
					one.From, one.To = nil, some
				}
				out = append(out, one)
			}
		}
	}
	return out
}

// chunks cuts a list; an empty one, which means everything, stays one.
func chunks[T any](list []T, size int) [][]T {
	if len(list) == 0 {
		return [][]T{nil}
	}
	return slices.Collect(slices.Chunk(list, size))
}

// nameRules makes the names of rules valid and distinct.
func nameRules(rules []model.PolicyRule) []model.PolicyRule {
	seen := map[string]bool{}
	out := slices.Clone(rules)
	for i := range out {
		if out[i].Name != "" {
			out[i].Name = distinct(seen, cleanName(out[i].Name))
		}
	}
	return out
}

func (r *run) name(base string) string { return distinct(r.names, cleanName(base)) }

// distinct returns a name that has not been given yet: "web", "web-2".
func distinct(seen map[string]bool, base string) string {
	name := base
	for n := 2; seen[name]; n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	seen[name] = true
	return name
}

// cleanName makes a name CheckName accepts. What does not fit is cut and gets a
// digest, so that two long names stay two.
func cleanName(text string) string {
	b := []byte(strings.ToLower(text))
	for i, c := range b {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' {
			b[i] = '-'
		}
	}
	name := strings.Trim(string(b), "-.")
	const most = model.MaxName - 20 // room for "-rest" and a number
	if len(name) > most {
		h := fnv.New64a()
		h.Write([]byte(text))
		name = fmt.Sprintf("%s-%016x", strings.TrimRight(name[:most-17], "-."), h.Sum64())
	}
	if name == "" {
		return "unnamed"
	}
	return name
}

// and returns the selector that holds where all do.
func and(list ...model.Selector) model.Selector {
	var all []model.Requirement
	for _, s := range list {
		all = append(all, s.Requirements...)
	}
	slices.SortStableFunc(all, func(a, b model.Requirement) int {
		return cmp.Or(strings.Compare(a.Key, b.Key), strings.Compare(a.String(), b.String()))
	})
	return model.Selector{Requirements: slices.CompactFunc(all, func(a, b model.Requirement) bool { return a.String() == b.String() })}
}

func exists(key string) model.Requirement {
	return model.Requirement{Key: key, Operator: model.OpExists}
}

func in(key string, values ...string) model.Requirement {
	values = slices.Clone(values)
	slices.Sort(values)
	return model.Requirement{Key: key, Operator: model.OpIn, Values: slices.Compact(values)}
}

func selector(rs ...model.Requirement) model.Selector {
	return and(model.Selector{Requirements: rs})
}
