package importing

import (
	"bytes"
	"strings"
)

// value is a YAML or JSON value with the line it begins in.
type value struct {
	line   int
	fields map[string]*value // an object
	order  []string          // its keys as written
	list   []*value          // a list
	isList bool
	scalar any // string, bool, int64, uint64, float64; nil for null and the others
}

func (v *value) isObject() bool { return v != nil && v.fields != nil }

func (v *value) isNull() bool { return v == nil || v.fields == nil && !v.isList && v.scalar == nil }

// parse reads the documents of a file, JSON or YAML.
func (r *run) parse(f File) []*value {
	text := bytes.TrimLeft(bytes.TrimPrefix(f.Data, []byte("\xef\xbb\xbf")), " \t\r\n")
	if len(text) > 0 && (text[0] == '{' || text[0] == '[') {
		if docs, ok := r.parseJSON(f); ok {
			return docs
		}
		if strings.HasSuffix(f.Name, ".json") {
			return nil // the fault is there
		}
		r.faults = r.faults[:0] // YAML may begin so too; its reader has the last word
	}
	return r.parseYAML(f)
}
