package importing

import (
	"slices"

	"weft/model"
)

// labelSelector reads a Kubernetes label selector. said is false where a field is
// in it that is not known, or a label that weft cannot have; it has been reported
// as a fault where no cluster would take it.
func (c cursor) labelSelector() (out []model.Requirement, said bool) {
	if !c.wantObject() {
		return nil, true
	}
	said = len(c.others("matchLabels", "matchExpressions")) == 0
	for k, v := range c.get("matchLabels").labels() {
		out = append(out, in(k, v))
	}
	for _, e := range c.get("matchExpressions").items() {
		r := model.Requirement{Key: e.get("key").text(), Operator: model.Operator(e.get("operator").text()), Values: e.get("values").texts()}
		said = said && len(e.others("key", "operator", "values")) == 0
		switch r.Operator {
		case model.OpIn, model.OpNotIn:
			if len(r.Values) == 0 {
				e.get("values").fault("is missing; %s needs at least one value", r.Operator)
			}
			slices.Sort(r.Values)
			r.Values = slices.Compact(r.Values)
		case model.OpExists, model.OpDoesNotExist:
			if len(r.Values) > 0 {
				e.get("values").fault("%s takes no values; take them out", r.Operator)
			}
		default:
			e.get("operator").fault("%q is none of In, NotIn, Exists, DoesNotExist", r.Operator)
		}
		out = append(out, r)
	}
	for _, r := range out {
		// The longest prefix before a key is that of nodes.
		said = said && model.CheckLabelKey(nodeLabels+r.Key) == nil && model.CheckLabelKey(r.Key) == nil
		for _, v := range r.Values {
			said = said && model.CheckLabelValue(v) == nil
		}
	}
	return selector(out...).Requirements, said
}
