package observe

import (
	"cmp"
	"maps"
	"slices"

	"weft/model"
	"weft/wire/wirepb"
)

// maxRefused bounds how many refused labels a host's status names.
const maxRefused = 64

// claims are what a host's agent may say of labels: as its resource says, else as
// its join token said, else as the controller was told.
func (o *Observer) claims(h *model.Host) model.Claims {
	if len(h.Spec.Claims) > 0 {
		return h.Spec.Claims
	}
	if text := h.Metadata.Annotations[model.AnnotationClaims]; text != "" {
		c, err := model.ParseClaims(text)
		if err != nil { // only the controller writes it
			return model.Claims{model.ClaimNone}
		}
		return c
	}
	return o.cfg.Claims
}

// copyClaimed copies the labels that may be claimed.
func copyClaimed(to, from map[string]string, claims model.Claims) {
	for k, v := range from {
		if claims.Allow(k) {
			to[k] = v
		}
	}
}

// refused are the labels that an agent claims and may not, of the host first.
func (h *host) refused(r *model.Host, claims model.Claims) (out []model.RefusedLabel) {
	if len(claims) == 0 {
		return nil
	}
	add := func(workload string, labels map[string]string) {
		for _, k := range slices.Sorted(maps.Keys(labels)) {
			// What every workload carries the controller sets, whatever is claimed.
			if !claims.Allow(k) && k != LabelKind && k != LabelHost && len(out) < maxRefused {
				out = append(out, model.RefusedLabel{Workload: workload, Key: k, Value: labels[k]})
			}
		}
	}
	add(r.Metadata.Name, h.facts.GetLabels())
	rest := slices.SortedFunc(maps.Values(h.workloads), func(a, b *wirepb.Workload) int { return cmp.Compare(a.Id, b.Id) })
	for _, w := range rest {
		if model.WorkloadKind(w.Kind) != model.WorkloadHost { // its labels are those of the facts
			add(workloadName(r, w), w.Labels)
		}
	}
	return out
}
