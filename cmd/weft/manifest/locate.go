package manifest

import (
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// locate returns the node of a field path ("spec.groups[2]", "metadata.labels.a.b/c"),
// or of the nearest field above it that is there; nil for none. Keys may hold
// dots, so the longest key that fits is taken.
func locate(node ast.Node, field string) ast.Node {
	switch n := node.(type) {
	case *ast.MappingNode:
		var best *ast.MappingValueNode
		var rest string
		for _, v := range n.Values {
			key := strings.Trim(v.Key.GetToken().Value, `"'`)
			after, ok := strings.CutPrefix(field, key)
			if ok && key != "" && (after == "" || after[0] == '.' || after[0] == '[') && (best == nil || len(after) < len(rest)) {
				best, rest = v, after
			}
		}
		if best == nil {
			return nil
		}
		if at := locate(best.Value, strings.TrimPrefix(rest, ".")); at != nil {
			return at
		}
		return best.Key
	case *ast.SequenceNode:
		inner, after, ok := strings.Cut(strings.TrimPrefix(field, "["), "]")
		i, err := strconv.Atoi(inner)
		if !ok || err != nil || i >= len(n.Values) {
			return nil
		}
		if at := locate(n.Values[i], strings.TrimPrefix(after, ".")); at != nil {
			return at
		}
		return n.Values[i]
	case *ast.AnchorNode:
		return locate(n.Value, field)
	}
	return nil
}
