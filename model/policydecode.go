package model

import "fmt"

// GetKind returns Policy whether the document says so or not.
func (r *Policy) GetKind() Kind { return KindPolicy }

var policyKind = KindInfo{Kind: KindPolicy, Plural: "policies", Short: "pol", New: func() Resource { return &Policy{TypeMeta: typeMeta(KindPolicy)} }}

// DecodePolicy reads a policy as Decode reads the other kinds.
func DecodePolicy(doc any) (*Policy, error) {
	top, ok := doc.(map[string]any)
	if !ok {
		return nil, FieldErrors{{Message: fmt.Sprintf("is %s; want a resource: apiVersion, kind, metadata, spec", describe(doc))}}
	}
	var e FieldErrors
	if v := top["apiVersion"]; v != APIVersion {
		e.add("apiVersion", fmt.Errorf("is %s; write apiVersion: %s", describe(v), APIVersion))
	}
	if v := top["kind"]; v != string(KindPolicy) {
		e.add("kind", fmt.Errorf("is %s; write kind: %s", describe(v), KindPolicy))
	}
	if len(e) > 0 {
		return nil, e
	}
	r, err := decodeAs(top, policyKind)
	if r == nil {
		return nil, err
	}
	return r.(*Policy), err
}
