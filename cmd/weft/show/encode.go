package show

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/goccy/go-yaml"

	"weft/model"
)

// JSON writes a value with two spaces of indentation. Escaping for HTML is off:
// a selector reads "a!=b", a filter "a & b".
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// YAML returns a resource with its fields in the order of the model.
func YAML(r any) ([]byte, error) {
	var buf bytes.Buffer
	if err := JSON(&buf, r); err != nil {
		return nil, err
	}
	out, err := yaml.JSONToYAML(buf.Bytes())
	if err != nil {
		return nil, fmt.Errorf("encode as YAML: %w", err)
	}
	return out, nil
}

// Intent returns the part of a resource that a person writes, for edit and diff.
func Intent(r model.Resource, keepVersion bool) (map[string]any, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	delete(m, "status")
	if meta, ok := m["metadata"].(map[string]any); ok {
		for _, k := range []string{"uid", "generation", "creationTimestamp"} {
			delete(meta, k)
		}
		if !keepVersion {
			delete(meta, "resourceVersion")
		}
	}
	return m, nil
}
