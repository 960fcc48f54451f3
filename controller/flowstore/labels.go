package flowstore

import (
	"maps"
	"slices"
	"strings"
)

// Labels are kept as text, so that the database can ask it for what it holds:
// each label is KEY, pairs, VALUE, and begins and ends with ends.
const (
	labelEnds  = "\x1f"
	labelPairs = "\x1e"
)

// clean keeps the two out of what is written between them.
var clean = strings.NewReplacer(labelEnds, " ", labelPairs, " ")

// labelText writes labels as text: none is "".
func labelText(labels map[string]string) string {
	if len(labels) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(labelEnds)
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		b.WriteString(clean.Replace(k) + labelPairs + clean.Replace(labels[k]) + labelEnds)
	}
	return b.String()
}

// readLabels reads what labelText wrote.
func readLabels(s string) map[string]string {
	if s == "" {
		return nil
	}
	out := map[string]string{}
	for label := range strings.SplitSeq(strings.Trim(s, labelEnds), labelEnds) {
		k, v, _ := strings.Cut(label, labelPairs)
		out[k] = v
	}
	return out
}
