package api

import (
	"testing"

	"weft/model"
)

func TestHostsThatCannotTap(t *testing.T) {
	const noTCX, noClsact = "no: the kernel has no tcx", "no: the kernel has no clsact qdisc"
	for name, c := range map[string]struct {
		capabilities map[string]string
		want         string
	}{
		"both":                {map[string]string{"tap.tcx": "yes", "tap.clsact": "yes"}, ""},
		"a 6.1 kernel":        {map[string]string{"tap.tcx": noTCX, "tap.clsact": "yes"}, ""},
		"tcx alone":           {map[string]string{"tap.tcx": "yes", "tap.clsact": noClsact}, ""},
		"neither":             {map[string]string{"tap.tcx": noTCX, "tap.clsact": noClsact}, "the kernel has no tcx"},
		"could not tell":      {map[string]string{"tap.tcx": noTCX, "tap.clsact": "unknown: EPERM"}, ""},
		"an old agent, no":    {map[string]string{"tap.tcx": noTCX}, "the kernel has no tcx"},
		"an old agent, yes":   {map[string]string{"tap.tcx": "yes"}, ""},
		"has told of nothing": {nil, ""},
	} {
		w := &model.Workload{Spec: model.WorkloadSpec{Host: "web-1"}}
		got := incapable(func(string) map[string]string { return c.capabilities }, []*model.Workload{w}, "tap.tcx", "tap.clsact")
		if got["web-1"] != c.want {
			t.Errorf("%s: %q, want %q", name, got["web-1"], c.want)
		}
	}
}
