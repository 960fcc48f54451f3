package observe

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"weft/model"
	"weft/wire/wirepb"
)

// Limits on what one host's agent may report; an agent is believed about its
// own machine, and about nothing else. What is over a limit or is no valid
// label is left out, except the number of workloads, which ends the session.
const (
	MaxWorkloads  = 10_000
	MaxLabels     = 256
	MaxAddresses  = 256
	MaxInterfaces = 4096
	maxText       = 1024
	maxMessage    = 8 << 10
	maxTurn       = 32 << 10 // bytes of a probe's
)

func cleanFacts(f *wirepb.HostFacts) *wirepb.HostFacts {
	f = proto.CloneOf(f)
	f.Labels = cleanLabels(f.Labels)
	f.Capabilities = cleanTexts(f.Capabilities)
	f.Interfaces = f.Interfaces[:min(len(f.Interfaces), MaxInterfaces)]
	for _, i := range f.Interfaces {
		i.Addresses = i.Addresses[:min(len(i.Addresses), MaxAddresses)]
	}
	if len(f.CallerKey) != 32 {
		f.CallerKey = nil
	}
	f.Conditions = slices.DeleteFunc(f.Conditions[:min(len(f.Conditions), 64)], func(c *wirepb.Condition) bool {
		return c.Type == "" || c.Type == ConditionSilent || len(c.Type) > model.MaxLabelKey // silence is ours to say
	})
	for _, c := range f.Conditions {
		c.Type, c.Status = model.CleanLabelValue(c.Type), model.CleanLabelValue(c.Status)
		if model.Severity(c.Severity).Rank() == 0 {
			c.Severity = ""
		}
		c.Message = strings.ToValidUTF8(c.Message[:min(len(c.Message), maxMessage)], "")
	}
	return f
}

// cleanWorkload returns nil for what cannot be a workload.
func cleanWorkload(w *wirepb.Workload) *wirepb.Workload {
	if w.Id == "" || len(w.Id) > maxText {
		return nil
	}
	switch model.WorkloadKind(w.Kind) {
	case model.WorkloadHost, model.WorkloadContainer, model.WorkloadUnit, model.WorkloadGuest:
	default:
		return nil // a kind of a newer version than ours
	}
	w = proto.CloneOf(w)
	w.Labels = cleanLabels(w.Labels)
	w.Addresses = w.Addresses[:min(len(w.Addresses), MaxAddresses)]
	w.Interfaces = w.Interfaces[:min(len(w.Interfaces), MaxAddresses)]
	w.Name = model.CleanLabelValue(w.Name)
	return w
}

func cleanLabels(labels map[string]string) map[string]string {
	out := make(map[string]string, len(labels))
	for k, v := range labels {
		if len(out) < MaxLabels && model.CheckLabelKey(k) == nil {
			out[k] = model.CleanLabelValue(v)
		}
	}
	return out
}

func cleanTexts(texts map[string]string) map[string]string {
	out := make(map[string]string, len(texts))
	for k, v := range texts {
		if len(out) < MaxLabels && len(k) <= model.MaxLabelKey {
			out[k] = strings.ToValidUTF8(v[:min(len(v), maxText)], "")
		}
	}
	return out
}
