package importing

import (
	"errors"
	"strings"
)

// workloadKey maps a label of an endpoint. Calico's own that weft's workloads do
// not carry cannot be said.
func workloadKey(key string) (string, bool) {
	switch {
	case key == "projectcalico.org/namespace":
		return namespaceLabel, true
	case key == "projectcalico.org/serviceaccount":
		return serviceAccountLabel, true
	case strings.HasPrefix(key, "pcns."):
		return namespaceKey(strings.TrimPrefix(key, "pcns."))
	case strings.HasPrefix(key, "projectcalico.org/"), strings.HasPrefix(key, "pcsa."):
		return "", false
	}
	return key, true
}

// namespaceKey maps a label of a namespace.
func namespaceKey(key string) (string, bool) {
	if key == "projectcalico.org/name" || key == metadataName {
		return namespaceLabel, true
	}
	return namespaceLabels + key, true
}

// selector reads an expression here; said is false where it cannot be said, which
// the caller reports.
func (c cursor) expression(not bool, key func(string) (string, bool)) (out anyOf, said bool, why string) {
	text := c.text()
	if not {
		text = "!(" + text + ")"
	}
	out, err := calicoExpression(text, key)
	if errors.Is(err, errUnsaid) {
		return nil, false, err.Error()
	}
	if err != nil {
		c.fault("selector %q: %v", short(c.text()), err)
		return nil, false, ""
	}
	return out, true, ""
}
