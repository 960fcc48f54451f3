package observe

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/controller/plan"
	"weft/model"
	"weft/policy"
	"weft/wire/policywire"
	"weft/wire/wirepb"
)

func addr(text string) []byte { return policywire.EncodeAddress(netip.MustParseAddr(text)) }

// street is two hosts whose containers have the same private address, and a
// policy for the database on one.
func street(t *testing.T, cfg Config) (*Observer, *model.Policy, Intent) {
	t.Helper()
	o := New(cfg, Deps{})
	a, b := hostOf("a"), hostOf("b")
	b.Spec.Labels = map[string]string{"role": "db"}
	p := &model.Policy{TypeMeta: model.TypeMeta{Kind: model.KindPolicy}, Metadata: model.Metadata{Name: "db", UID: "pol"}, Spec: model.PolicySpec{Stage: model.StageActive,
		Subject: model.PolicySubject{Selector: selector(t, "role=db")},
		Ingress: []model.PolicyRule{{Name: "web", Action: model.ActionAllow, From: []model.PolicyPeer{{Selector: selector(t, "app=web")}}}}}}
	i := Intent{Hosts: []*model.Host{a, b}, Policies: []*model.Policy{p}}
	o.SetIntent(i)
	for n, name := range []string{"a", "b"} {
		o.Connected(id(name), Peer{}, nil)
		o.Facts(id(name), &wirepb.HostFacts{Interfaces: []*wirepb.Interface{{Name: "eth0", Uplink: true, Addresses: []string{fmt.Sprintf("10.0.0.%d/24", n+1)}}}})
		ws := []*wirepb.Workload{{Id: "host", Kind: "host"}, {Id: "c", Kind: "container", Name: "c", Labels: map[string]string{"app": "web"}, Addresses: []string{"172.18.0.2"}}}
		if err := o.ReportWorkloads(id(name), &wirepb.WorkloadUpdate{Full: true, Upserts: ws}); err != nil {
			t.Fatal(err)
		}
	}
	o.planPolicies(i)
	return o, p, i
}

func (o *Observer) planPolicies(i Intent) {
	o.Set(i, plan.Compute(plan.State{TrustDomain: "weft.test", Hosts: i.Hosts, Policies: i.Policies, Workloads: o.Workloads(), Interfaces: o.Interfaces()}))
}

func TestCountersGoOnOverGenerationsAndRestarts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "conversations.json")
	o, p, i := street(t, Config{Conversations: file})
	rule := uint64(policy.MakeRuleID(p, policy.Ingress, 0))
	report := func(o *Observer, host string, generation, connections, lost uint64) {
		o.PolicyReport(id(host), &wirepb.PolicyReport{Driver: "bpf", Generation: generation, Lost: lost, Rules: []*wirepb.RuleCount{{Rule: rule, Connections: connections, Packets: 10 * connections, Bytes: 100 * connections}}})
	}
	want := func(o *Observer, n uint64) {
		t.Helper()
		r := o.PolicyStatus(p).Rules
		if len(r) != 1 || r[0].Connections != n || r[0].Packets != 10*n || r[0].Bytes != 100*n || r[0].Name != "web" || r[0].Direction != "ingress" {
			t.Errorf("rules %+v, want %d connections", r, n)
		}
	}
	report(o, "b", 1, 5, 0)
	report(o, "b", 1, 7, 3) // a total, not an increment
	want(o, 7)
	report(o, "a", 9, 1, 0)
	want(o, 8)
	report(o, "b", 2, 4, 1) // the driver's state was made anew
	want(o, 12)
	report(o, "b", 2, 4, 1)
	want(o, 12)
	if lost := o.Conversations(time.Time{}).Lost; lost != 4 {
		t.Errorf("%d lost, want 4", lost)
	}
	if err := o.saveTalk(); err != nil {
		t.Fatal(err)
	}
	again := New(Config{Conversations: file}, Deps{})
	again.SetIntent(i)
	want(again, 12)
	report(again, "b", 2, 6, 1)
	want(again, 14)
}

func TestWhoTalkedToWhom(t *testing.T) {
	o, _, _ := street(t, Config{})
	web := o.plan.Identity("a:c")
	host := o.plan.Identity("a")
	for name, test := range map[string]struct {
		in       *wirepb.Conversation
		peer     string
		labelled bool
	}{
		"by address":                      {&wirepb.Conversation{Workload: "c", Egress: true, PeerAddress: addr("10.0.0.2")}, "b", true},
		"a private address on its host":   {&wirepb.Conversation{Workload: "host", PeerAddress: addr("172.18.0.2")}, "b:c", true},
		"told by the packet behind a NAT": {&wirepb.Conversation{Workload: "host", Peer: uint32(web), PeerBy: "option", PeerAddress: addr("10.0.0.1")}, "a:c", true},
		"the host behind the same NAT":    {&wirepb.Conversation{Workload: "host", Peer: uint32(host), PeerAddress: addr("10.0.0.1")}, "a", true},
		"told without an address":         {&wirepb.Conversation{Workload: "host", Peer: uint32(web)}, "", true},
		"the world":                       {&wirepb.Conversation{Workload: "c", Egress: true, PeerAddress: addr("198.51.100.1"), Names: []string{"example.org"}}, "", false},
		"a number nobody has":             {&wirepb.Conversation{Workload: "host", Peer: 4711, PeerAddress: addr("198.51.100.1")}, "", false},
	} {
		c := o.read("uid-b", test.in)
		if c == nil || c.Peer != test.peer || (c.PeerLabels != nil) != test.labelled {
			t.Errorf("%s: %+v, want peer %q, labels %v", name, c, test.peer, test.labelled)
		}
	}
	for name, m := range map[string]*wirepb.Conversation{"a workload that is gone": {Workload: "gone"}, "no protocol": {Workload: "c", Protocol: 300}, "no port": {Workload: "c", Port: 70000}} {
		if c := o.read("uid-b", m); c != nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestConversationsAddUpAndComeBack(t *testing.T) {
	file := filepath.Join(t.TempDir(), "conversations.json")
	o, _, i := street(t, Config{Conversations: file})
	seen := func(last int64, names ...string) *wirepb.PolicyReport {
		return &wirepb.PolicyReport{Conversations: []*wirepb.Conversation{{Workload: "c", Egress: true, PeerAddress: addr("198.51.100.1"), Protocol: 6, Port: 443, Action: "Allow",
			StagedAction: "Deny", Connections: 2, FirstUnix: last - 5, LastUnix: last, Names: names}}}
	}
	o.PolicyReport(id("b"), seen(1000))
	o.PolicyReport(id("b"), seen(2000))
	o.PolicyReport(id("b"), seen(1500, "example.org")) // another peer: a name
	o.PolicyReport(id("b"), &wirepb.PolicyReport{Conversations: []*wirepb.Conversation{{Workload: "gone"}}})
	check := func(o *Observer) {
		t.Helper()
		got := o.Conversations(time.Time{})
		if len(got.Conversations) != 2 || got.Unread != 1 {
			t.Fatalf("%+v", got)
		}
		c := got.Conversations[0]
		if c.Connections != 4 || c.First.Unix() != 995 || c.Last.Unix() != 2000 || c.Labels["app"] != "web" || c.Workload != "b:c" || c.StagedAction != model.ActionDeny {
			t.Errorf("%+v", c)
		}
		if since := o.Conversations(time.Unix(1800, 0)); len(since.Conversations) != 1 {
			t.Errorf("%d since", len(since.Conversations))
		}
	}
	check(o)
	if err := o.saveTalk(); err != nil {
		t.Fatal(err)
	}
	again := New(Config{Conversations: file}, Deps{})
	again.SetIntent(i)
	check(again)
}

// However much agents report, what is kept is bounded, and the rest is counted.
func TestConversationsAreBounded(t *testing.T) {
	s := newConversations()
	for n := range MaxConversations + 5000 {
		c := &Conversation{Workload: "w", PeerAddress: fmt.Sprint(n), Last: time.Unix(int64(n), 0), Labels: map[string]string{"a": "b"}}
		c.ID = c.key()
		s.add(c)
	}
	if n := len(s.byID); n > MaxConversations || n < MaxConversations*9/10 {
		t.Errorf("%d kept", n)
	}
	if got := uint64(len(s.byID)) + s.Evicted; got != MaxConversations+5000 {
		t.Errorf("%d accounted for", got)
	}
	if len(s.labels) != 1 {
		t.Errorf("%d label sets kept for one", len(s.labels))
	}
	if first := s.sorted()[0].Last.Unix(); first != MaxConversations+4999 {
		t.Errorf("the newest is gone; %d is", first)
	}
}

func TestPolicyStatusThroughItsLife(t *testing.T) {
	o, p, i := street(t, Config{})
	check := func(when string, state model.PolicyState, applied, failed int, text string) {
		t.Helper()
		st := o.PolicyStatus(p)
		if st.State != state || st.Applied != applied || st.Failed != failed || st.Targeted != 1 || st.Workloads != 1 || !strings.Contains(st.Message, text) {
			t.Errorf("%s: %+v, want %s with %q", when, st, state, text)
		}
	}
	ack := func(section, err string) {
		o.Section(id("b"), &wirepb.SectionStatus{Name: section, Digest: o.digest("b", section), Error: err})
	}
	check("planned", model.PolicyPending, 0, 0, "host b is pending: not applied yet")
	ack("policy", "")
	check("half applied", model.PolicyPending, 0, 0, "not applied yet")
	ack("identity", "")
	check("applied", model.PolicyActive, 1, 0, "")
	ack("policy", "rules overflow the map")
	check("refused", model.PolicyFailed, 0, 1, "b: rules overflow the map")
	ack("policy", "")
	o.Disconnected(id("b"))
	check("away", model.PolicyPending, 0, 0, "host b is offline")
	staged := *p
	staged.Metadata.UID = "another"
	if st := o.PolicyStatus(&staged); st.State != model.PolicyPending || st.Message != "not planned yet" || st.Workloads != 1 {
		t.Errorf("made again under its name: %+v", st)
	}
	draft := *p
	draft.Spec.Stage = model.StageDraft
	i.Policies = []*model.Policy{&draft}
	o.planPolicies(i)
	if st := o.PolicyStatus(&draft); st.State != model.PolicyDraft {
		t.Errorf("draft: %+v", st)
	}
}
