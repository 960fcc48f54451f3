package observe

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/controller/plan"
	"weft/model"
	"weft/wire"
	"weft/wire/wirepb"
)

func id(name string) wire.Identity {
	return wire.Identity{TrustDomain: "weft.test", Role: model.RoleHost, Name: name, UID: "uid-" + name}
}

func hostOf(name string) *model.Host {
	return &model.Host{TypeMeta: model.TypeMeta{Kind: model.KindHost}, Metadata: model.Metadata{Name: name, UID: "uid-" + name}}
}

func selector(t *testing.T, text string) *model.Selector {
	t.Helper()
	s, err := model.ParseSelector(text)
	if err != nil {
		t.Fatal(err)
	}
	return &s
}

// fleet is a web host with a container and a tool, with one tap planned.
func fleet(t *testing.T, cfg Config) (*Observer, *model.Tap, Intent) {
	t.Helper()
	o := New(cfg, Deps{})
	tap := &model.Tap{Metadata: model.Metadata{Name: "t", UID: "tap"}, Spec: model.TapSpec{
		From: model.Endpoints{Selector: selector(t, "app=web")}, To: model.Endpoints{Selector: selector(t, "role=ids")}}}
	web, ids := hostOf("web"), hostOf("ids")
	web.Metadata.Labels = map[string]string{"site": "token", "a": "token"}
	web.Spec.Labels = map[string]string{"a": "person"}
	ids.Spec.Labels = map[string]string{"role": "ids"}
	i := Intent{Hosts: []*model.Host{web, ids}, Taps: []*model.Tap{tap}}
	o.SetIntent(i)
	for _, name := range []string{"web", "ids"} {
		o.Connected(id(name), Peer{Version: "1"}, nil)
		ws := []*wirepb.Workload{{Id: "host", Kind: "host", Labels: map[string]string{"a": "agent", "cloud.zone": "z", "own": "1"}}}
		if name == "web" {
			ws = append(ws, &wirepb.Workload{Id: "c1", Kind: "container", Name: "nginx", Labels: map[string]string{"app": "web", "host.name": "forged", "workload.kind": "forged"}})
		}
		o.Facts(id(name), &wirepb.HostFacts{Labels: map[string]string{"a": "agent", "cloud.zone": "z", "own": "1"}})
		if err := o.ReportWorkloads(id(name), &wirepb.WorkloadUpdate{Full: true, Upserts: ws}); err != nil {
			t.Fatal(err)
		}
	}
	o.replan(i)
	return o, tap, i
}

func (o *Observer) replan(i Intent) {
	o.Set(i, plan.Compute(plan.State{TrustDomain: "weft.test", Hosts: i.Hosts, Taps: i.Taps, Workloads: o.Workloads()}))
}

func (o *Observer) digest(host, section string) string {
	return o.plan.Hosts.Get(host).Sections[section].Digest
}

func TestWorkloadLabels(t *testing.T) {
	o, _, _ := fleet(t, Config{})
	got := map[string]map[string]string{}
	for _, w := range o.Workloads() {
		got[w.Metadata.Name] = w.Metadata.Labels
	}
	want := map[string]map[string]string{
		"web":       {"a": "person", "site": "token", "own": "1", "cloud.zone": "z", "host.name": "web", "workload.kind": "host"},
		"web:nginx": {"app": "web", "cloud.zone": "z", "host.name": "web", "workload.kind": "container"},
		"ids":       {"a": "agent", "role": "ids", "own": "1", "cloud.zone": "z", "host.name": "ids", "workload.kind": "host"},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestTapStatusThroughItsLife(t *testing.T) {
	o, tap, _ := fleet(t, Config{})
	check := func(when string, state model.TapState, text string) {
		t.Helper()
		st := o.TapStatus(tap)
		if st.State != state || !strings.Contains(st.Message, text) {
			t.Errorf("%s: %s %q, want %s with %q", when, st.State, st.Message, state, text)
		}
	}
	check("planned", model.TapPending, "not applied yet")
	section := func(host, name, err string, items ...*wirepb.ItemStatus) {
		o.Section(id(host), &wirepb.SectionStatus{Name: name, Digest: o.digest(host, name), Error: err, Items: items})
	}
	section("ids", "deliver", "", &wirepb.ItemStatus{Item: "tap/ids", State: "Ready"})
	section("web", "capture", "", &wirepb.ItemStatus{Item: "tap/ids/c1", State: "Capturing"})
	check("applied", model.TapPending, "connecting")
	line := &wirepb.LineStatus{Line: "tap/ids", State: "Connected", Path: "relay", Relay: "r1", Since: 1,
		Ledger: &wirepb.Ledger{Seen: &wirepb.Count{Packets: 5, Bytes: 50}, Delivered: &wirepb.Count{Packets: 5, Bytes: 50}}}
	o.Lines(id("web"), &wirepb.LineReport{Lines: []*wirepb.LineStatus{line}})
	check("connected", model.TapActive, "")
	st := o.TapStatus(tap)
	if len(st.Paths) != 1 || st.Paths[0].Relay != "r1" || st.Ledger.Seen.Packets != 5 || st.Ledger.Check() != nil {
		t.Errorf("paths %+v, ledger %+v", st.Paths, st.Ledger)
	}
	o.Disconnected(id("web"))
	check("source away", model.TapDegraded, "source web:nginx is offline")
	o.Connected(id("web"), Peer{}, []*wirepb.SectionStatus{{Name: "capture", Digest: o.digest("web", "capture")}})
	check("source back", model.TapActive, "")
	section("ids", "deliver", "device weft0 has another owner", &wirepb.ItemStatus{Item: "tap/ids", State: "Error", Message: "device weft0 has another owner"})
	o.Lines(id("web"), &wirepb.LineReport{})
	check("refused", model.TapError, "another owner")
	paused := *tap
	paused.Spec.Paused = true
	if st := o.TapStatus(&paused); st.State != model.TapPaused {
		t.Errorf("paused: %s", st.State)
	}
	again := *tap
	again.Metadata.UID = "another"
	if st := o.TapStatus(&again); st.State != model.TapPending {
		t.Errorf("made again under its name: %s", st.State)
	}
}

func TestReportsSurviveARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "observed.json")
	o, _, i := fleet(t, Config{File: file})
	before := o.digest("web", "capture")
	if err := o.save(); err != nil {
		t.Fatal(err)
	}
	again := New(Config{File: file}, Deps{})
	again.SetIntent(i)
	again.replan(i)
	if got := again.digest("web", "capture"); got != before {
		t.Error("a restart of the controller changes what the host should do")
	}
	if st := again.HostStatus(i.Hosts[0]); st.State != model.HostOffline || st.LastSeen == nil || st.Workloads != 2 {
		t.Errorf("status after restart: %+v", st)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := len(New(Config{File: file}, Deps{}).hosts); n != 0 {
		t.Errorf("%d hosts out of a damaged file", n)
	}
}

func TestReportsAreCleanedAndBounded(t *testing.T) {
	o, _, i := fleet(t, Config{})
	many := map[string]string{}
	for n := range 1000 {
		many[fmt.Sprintf("k%d", n)] = "v\x00"
	}
	many["bad key"] = "x"
	if err := o.ReportWorkloads(id("web"), &wirepb.WorkloadUpdate{Full: true, Upserts: []*wirepb.Workload{
		{Id: "a", Kind: "container", Labels: many}, {Id: "", Kind: "host"}, {Id: "b", Kind: "thing"}, {Id: strings.Repeat("x", 2000), Kind: "unit"}}}); err != nil {
		t.Fatal(err)
	}
	for _, w := range o.Workloads() {
		for k, v := range w.Metadata.Labels {
			if model.CheckLabelKey(k) != nil || model.CheckLabelValue(v) != nil {
				t.Errorf("label %q=%q", k, v)
			}
		}
	}
	if st := o.HostStatus(i.Hosts[0]); st.Workloads != 1 {
		t.Errorf("%d workloads, want 1", st.Workloads)
	}
	u := &wirepb.WorkloadUpdate{}
	for n := range MaxWorkloads + 1 {
		u.Upserts = append(u.Upserts, &wirepb.Workload{Id: fmt.Sprint(n), Kind: "unit"})
	}
	if err := o.ReportWorkloads(id("web"), u); err == nil {
		t.Error("any number of workloads is taken")
	}
}

func TestRevokedHostHasNoWorkloads(t *testing.T) {
	o, _, i := fleet(t, Config{})
	revoked := *i.Hosts[0]
	revoked.Spec.Revoked = true
	i.Hosts = append([]*model.Host{&revoked}, i.Hosts[1:]...)
	o.SetIntent(i)
	for _, w := range o.Workloads() {
		if w.Spec.Host == "web" {
			t.Errorf("workload %s of a revoked host", w.Metadata.Name)
		}
	}
	if st := o.HostStatus(i.Hosts[0]); st.State != model.HostRevoked {
		t.Errorf("state %s", st.State)
	}
}

func TestOnlyInventoryWakesThePlanner(t *testing.T) {
	o, _, _ := fleet(t, Config{})
	woken := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	inventory, any := o.InventoryChanged(), o.Changed()
	o.Lines(id("web"), &wirepb.LineReport{})
	o.Seen(id("web"), time.Millisecond)
	if woken(inventory) || !woken(any) {
		t.Error("a line report must wake watchers and not the planner")
	}
	o.ReportWorkloads(id("web"), &wirepb.WorkloadUpdate{Deletes: []string{"c1"}})
	if !woken(inventory) {
		t.Error("a workload that goes must wake the planner")
	}
}
