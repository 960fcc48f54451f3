package observe

import (
	"fmt"
	"testing"

	"weft/model"
	"weft/wire/wirepb"
)

func TestClaimsDecideWhichLabelsCount(t *testing.T) {
	for _, c := range []struct {
		name        string
		setting     string // of the controller
		token, host string
		web, nginx  string
		refused     int
	}{
		{"nobody says", "", "", "", "a=agent cloud.zone=z host.name=web own=1 role=ids workload.kind=host", "app=web cloud.zone=z host.name=web workload.kind=container", 0},
		{"the controller", "none", "", "", "host.name=web workload.kind=host", "host.name=web workload.kind=container", 5},
		{"the token over the controller", "none", "cloud.*", "", "cloud.zone=z host.name=web workload.kind=host", "cloud.zone=z host.name=web workload.kind=container", 4},
		{"the host over the token", "any", "none", "a,app", "a=agent host.name=web workload.kind=host", "app=web host.name=web workload.kind=container", 3},
		{"the host opens again", "none", "none", "any", "a=agent cloud.zone=z host.name=web own=1 role=ids workload.kind=host", "app=web cloud.zone=z host.name=web workload.kind=container", 0},
		{"what is stored and no list", "any", "a b", "", "host.name=web workload.kind=host", "host.name=web workload.kind=container", 5},
	} {
		setting, err := model.ParseClaims(c.setting)
		if err != nil {
			t.Fatal(err)
		}
		o := New(Config{Claims: setting}, Deps{})
		web := hostOf("web")
		web.Metadata.Annotations = map[string]string{model.AnnotationClaims: c.token}
		web.Spec.Claims, _ = model.ParseClaims(c.host)
		o.SetIntent(Intent{Hosts: []*model.Host{web}})
		labels := map[string]string{"a": "agent", "cloud.zone": "z", "own": "1", "role": "ids", "host.name": "forged"}
		o.Facts(id("web"), &wirepb.HostFacts{Labels: labels})
		err = o.ReportWorkloads(id("web"), &wirepb.WorkloadUpdate{Full: true, Upserts: []*wirepb.Workload{{Id: "host", Kind: "host", Labels: labels},
			{Id: "c1", Kind: "container", Name: "nginx", Labels: map[string]string{"app": "web", "workload.kind": "host"}}}})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"web": "map[" + sp(c.web), "web:nginx": "map[" + sp(c.nginx)}
		for _, w := range o.Workloads() {
			if got := fmt.Sprint(w.Metadata.Labels); got != want[w.Metadata.Name] {
				t.Errorf("%s: %s has %s, want %s", c.name, w.Metadata.Name, got, want[w.Metadata.Name])
			}
		}
		st := o.HostStatus(web)
		if len(st.RefusedLabels) != c.refused {
			t.Errorf("%s: refused %v, want %d", c.name, st.RefusedLabels, c.refused)
		}
		for _, l := range st.RefusedLabels {
			if l.Workload == "web" && st.Labels[l.Key] != "" {
				t.Errorf("%s: %s is refused and counts", c.name, l.Key)
			}
		}
		// Closed, or opened, while it runs.
		other := *web
		other.Spec.Claims = model.Claims{model.ClaimNone}
		o.SetIntent(Intent{Hosts: []*model.Host{&other}})
		for _, w := range o.Workloads() {
			if len(w.Metadata.Labels) != 2 {
				t.Errorf("%s: %s still has %v", c.name, w.Metadata.Name, w.Metadata.Labels)
			}
		}
	}
}

// sp turns "a=b c=d" into what fmt prints of a map.
func sp(text string) string {
	out := []byte(text + "]")
	for i := range out {
		if out[i] == '=' {
			out[i] = ':'
		}
	}
	return string(out)
}

// What the controller itself says of a host needs no claim.
func TestOwnersLabelsNeedNoClaim(t *testing.T) {
	o := New(Config{Claims: model.Claims{model.ClaimNone}}, Deps{})
	web := hostOf("web")
	web.Metadata.Labels, web.Spec.Labels = map[string]string{"site": "dc1", "cloud.zone": "owner"}, map[string]string{"role": "db"}
	o.SetIntent(Intent{Hosts: []*model.Host{web}})
	o.Facts(id("web"), &wirepb.HostFacts{Labels: map[string]string{"role": "ids", "cloud.zone": "forged"}})
	_ = o.ReportWorkloads(id("web"), &wirepb.WorkloadUpdate{Full: true, Upserts: []*wirepb.Workload{{Id: "host", Kind: "host"}, {Id: "c1", Kind: "container", Name: "c"}}})
	want := map[string]string{"web": "map[cloud.zone:owner host.name:web role:db site:dc1 workload.kind:host]", "web:c": "map[cloud.zone:owner host.name:web workload.kind:container]"}
	for _, w := range o.Workloads() {
		if got := fmt.Sprint(w.Metadata.Labels); got != want[w.Metadata.Name] {
			t.Errorf("%s has %s", w.Metadata.Name, got)
		}
	}
}
