// Package probewire writes what came of probes as messages of the protocol, and
// reads what an agent says, which may be anything.
package probewire

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"

	"weft/model"
	"weft/wire/wirepb"
)

// Limits on what one result may hold: a reader leaves the rest out.
const (
	maxErrors = 64
	maxText   = 256
)

// Encode writes a result.
func Encode(r *model.ProbeResult) *wirepb.ProbeResult {
	l := r.Latency
	out := &wirepb.ProbeResult{Seconds: r.Seconds, Asked: r.Asked, Ok: r.OK, Bytes: r.Bytes, Min: l.Min, Mean: l.Mean, P50: l.P50, P90: l.P90, P99: l.P99, P999: l.P999, Max: l.Max, Note: Text(r.Note)}
	for _, kind := range slices.Sorted(maps.Keys(r.Errors)) {
		out.Errors = append(out.Errors, &wirepb.ProbeError{Kind: Text(kind), Count: r.Errors[kind]})
	}
	return out
}

// Decode reads a result of a probe of that kind and target; nil where there is none.
func Decode(kind model.ProbeKind, target string, m *wirepb.ProbeResult) *model.ProbeResult {
	if m == nil {
		return nil
	}
	r := &model.ProbeResult{Kind: kind, Target: target, Seconds: number(m.Seconds), Asked: m.Asked, OK: min(m.Ok, m.Asked), Bytes: m.Bytes, Note: Text(m.Note), Errors: map[string]uint64{},
		Latency: model.ProbeLatency{Min: number(m.Min), Mean: number(m.Mean), P50: number(m.P50), P90: number(m.P90), P99: number(m.P99), P999: number(m.P999), Max: number(m.Max)}}
	if r.Seconds > 0 {
		r.Rate = number(float64(r.OK) / r.Seconds)
	}
	for _, e := range m.Errors[:min(len(m.Errors), maxErrors)] {
		r.Errors[cmp.Or(Text(e.GetKind()), "other")] = e.GetCount()
	}
	return r
}

// number is one that JSON can say, and that is no less than nothing.
func number(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return 0
	}
	return v
}

// Text is one that a terminal can be shown.
func Text(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), maxText)], "")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}
