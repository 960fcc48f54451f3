package flowstore

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A fence that was written by a recovery that failed, and came late, hides nothing
// that a later recovery found below its own.
func TestFencesSettle(t *testing.T) {
	for name, x := range map[string]struct{ list, want []fence }{
		"none":                         {nil, nil},
		"apart":                        {[]fence{{100, 120}, {10, 20}}, []fence{{10, 20}, {100, 120}}},
		"nothing written in between":   {[]fence{{10, 30}, {10, 20}}, []fence{{10, 30}}},
		"a later one found rows":       {[]fence{{10, 30}, {15, 45}}, []fence{{15, 45}}},
		"both chose the same end":      {[]fence{{10, 30}, {15, 30}}, []fence{{15, 30}}},
		"a chain of what came late":    {[]fence{{10, 30}, {15, 45}, {17, 60}}, []fence{{17, 60}}},
		"a later one begins at an end": {[]fence{{10, 30}, {30, 50}}, []fence{{10, 50}}},
	} {
		if d := cmp.Diff(x.want, settle(x.list), cmp.AllowUnexported(fence{})); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}
