package model

import (
	"strings"
	"testing"
)

func TestClaimsAllow(t *testing.T) {
	for _, c := range []struct{ list, yes, no string }{
		{"", "role app.x os.id", ""},
		{"any", "role app.x", ""},
		{"none", "", "role app.x os.id none"},
		{"env,app.*", "env app.x app.", "app environment role apps"},
		{"cloud.tag/*,os.*", "cloud.tag/role os.id", "cloud.tag cloud.zone role"},
		{"app*", "app apps app.x", "role"},
	} {
		list, err := ParseClaims(c.list)
		if err != nil {
			t.Errorf("%q: %v", c.list, err)
			continue
		}
		if list.String() != c.list {
			t.Errorf("%q became %q", c.list, list)
		}
		for key := range strings.FieldsSeq(c.yes) {
			if !list.Allow(key) {
				t.Errorf("%q refuses %s", c.list, key)
			}
		}
		for key := range strings.FieldsSeq(c.no) {
			if list.Allow(key) {
				t.Errorf("%q allows %s", c.list, key)
			}
		}
	}
	for _, bad := range []string{"*", "any,role", "role,none", "a b", "role=ids", "-x*", ",", "app.", "ro*le", "a**"} {
		if list, err := ParseClaims(bad); err == nil {
			t.Errorf("%q is taken as %q", bad, []string(list))
		}
	}
}
