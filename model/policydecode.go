package model

import "fmt"

// DecodePolicy is Decode where nothing but a policy will do.
func DecodePolicy(doc any) (*Policy, error) {
	r, err := Decode(doc)
	if r == nil {
		return nil, err
	}
	p, ok := r.(*Policy)
	if !ok {
		return nil, FieldErrors{{Field: "kind", Message: fmt.Sprintf("is %s; write kind: %s", r.GetKind(), KindPolicy)}}
	}
	return p, err
}
