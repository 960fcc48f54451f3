package session

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"weft/controller/plan"
	"weft/model"
	"weft/policy"
	"weft/wire"
	"weft/wire/wirepb"
	"weft/wire/wirepb/wirepbconnect"
)

func selector(t *testing.T, text string) *model.Selector {
	t.Helper()
	s, err := model.ParseSelector(text)
	if err != nil {
		t.Fatal(err)
	}
	return &s
}

func (h *house) tap(name, from, to string) *model.Tap {
	h.t.Helper()
	tap := model.MustKind(model.KindTap).New().(*model.Tap)
	tap.Metadata.Name = name
	tap.Spec.From.Selector, tap.Spec.To.Selector = selector(h.t, from), selector(h.t, to)
	if err := h.store.Create(h.t.Context(), tester, tap, nil); err != nil {
		h.t.Fatal(err)
	}
	return tap
}

func (h *house) setHost(name string, change func(*model.Host)) {
	h.t.Helper()
	r, err := h.store.Get(h.t.Context(), model.KindHost, name)
	if err != nil {
		h.t.Fatal(err)
	}
	change(r.(*model.Host))
	if err := h.store.Update(h.t.Context(), tester, r); err != nil {
		h.t.Fatal(err)
	}
}

func TestSessionPlansAsWorkloadsComeAndTapsGo(t *testing.T) {
	h := newHouse(t, Config{})
	web, _ := h.member("host", "web-1")
	ids, _ := h.member("host", "ids")
	webStream, idsStream := h.mustOpen(web, "a"), h.mustOpen(ids, "b")
	tap := h.tap("web-to-ids", "app=web", "role=ids")
	idsStream.Send(workloads(hostWorkload(map[string]string{"role": "ids"})))
	h.section(idsStream, "deliver", func(s *wirepb.Section) bool { return len(s.GetDeliver().Lines) == 1 })

	began := time.Now()
	webStream.Send(workloads(hostWorkload(nil), &wirepb.Workload{Id: "c1", Kind: "container", Name: "nginx", Labels: map[string]string{"app": "web"}}))
	s := h.section(webStream, "capture", func(s *wirepb.Section) bool { return len(s.GetCapture().Lines) == 1 })
	t.Logf("workload to section took %s", time.Since(began))
	line := s.GetCapture().Lines[0]
	if line.Tap != "web-to-ids" || len(line.Workloads) != 1 || line.Workloads[0] != "c1" || line.Tool.Name != "ids" || !line.Ingress || !line.Egress {
		t.Errorf("capture line: %v", line)
	}
	webStream.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Section{Section: &wirepb.SectionStatus{Name: "capture", Digest: s.Digest, Revision: s.Revision}}})
	eventually(t, 5*time.Second, "acknowledgement shows", func() bool {
		st := h.obs.TapStatus(tap)
		return len(st.Sources) == 1 && st.Sources[0].State == "Capturing"
	})

	if err := h.store.Delete(t.Context(), tester, model.KindTap, "web-to-ids", ""); err != nil {
		t.Fatal(err)
	}
	gone := h.section(webStream, "capture", func(s *wirepb.Section) bool { return len(s.GetCapture().Lines) == 0 })
	if gone.Revision <= s.Revision {
		t.Errorf("revision went from %d to %d", s.Revision, gone.Revision)
	}
}

func TestSessionSendsOnlyWhatTheAgentLacks(t *testing.T) {
	h := newHouse(t, Config{Heartbeat: 100 * time.Millisecond})
	c, _ := h.member("host", "web-1")
	st := h.mustOpen(c, "a")
	have := map[string]string{}
	for len(have) < len(plan.Sections) {
		m, err := st.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if s := m.GetSection(); s != nil {
			have[s.Name] = s.Digest
		}
	}
	again := hello("a") // the same program dials anew
	for name, digest := range have {
		again.Sections = append(again.Sections, &wirepb.SectionStatus{Name: name, Digest: digest})
	}
	second, w, err := h.open(c, again)
	if err != nil || w == nil {
		t.Fatalf("open again: %v", err)
	}
	for range 3 {
		m, err := second.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if s := m.GetSection(); s != nil {
			t.Errorf("section %s sent though the agent has it", s.Name)
		}
		second.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Heartbeat{Heartbeat: &wirepb.Heartbeat{UnixNanos: time.Now().UnixNano()}}})
	}
	if _, err := st.Receive(); err == nil {
		t.Error("the replaced session lives on")
	}
}

func TestSessionRefusesAClone(t *testing.T) {
	h := newHouse(t, Config{Heartbeat: 100 * time.Millisecond})
	c, _ := h.member("host", "web-1")
	st := h.mustOpen(c, "one")
	_, _, err := h.open(c, hello("two"))
	wantRefusal(t, err, connect.CodeAlreadyExists, wire.ReasonClone, "boot boot-one")
	wantRefusal(t, err, connect.CodeAlreadyExists, wire.ReasonClone, "boot boot-two")
	// The first falls silent; then the second is let in.
	eventually(t, 5*time.Second, "second program admitted", func() bool {
		_, w, err := h.open(c, hello("two"))
		return err == nil && w != nil
	})
	for {
		if _, err = st.Receive(); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("silent session lives on")
	}
}

func TestSessionEndsWhenTheAgentFallsSilent(t *testing.T) {
	h := newHouse(t, Config{Heartbeat: 50 * time.Millisecond})
	c, uid := h.member("host", "web-1")
	st := h.mustOpen(c, "a")
	var err error
	for err == nil {
		_, err = st.Receive()
	}
	wantRefusal(t, err, connect.CodeDeadlineExceeded, wire.ReasonSilent, "nothing heard")
	host := &model.Host{Metadata: model.Metadata{Name: "web-1", UID: uid}}
	eventually(t, 5*time.Second, "host offline", func() bool { return h.obs.HostStatus(host).State == model.HostOffline })
}

func TestRevokingCutsTheSession(t *testing.T) {
	for name, tc := range map[string]struct {
		do     func(h *house)
		reason string
	}{
		"revoked": {func(h *house) { h.setHost("web-1", func(r *model.Host) { r.Spec.Revoked = true }) }, wire.ReasonRevoked},
		"deleted": {func(h *house) { h.store.Delete(h.t.Context(), tester, model.KindHost, "web-1", "") }, wire.ReasonUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, Config{})
			c, uid := h.member("host", "web-1")
			st := h.mustOpen(c, "a")
			tc.do(h)
			var err error
			for err == nil {
				_, err = st.Receive()
			}
			// The reason tells that it was cut for this, not for silence later.
			wantRefusal(t, err, connect.CodePermissionDenied, tc.reason, "join again")
			_, _, err = h.open(c, hello("a"))
			wantRefusal(t, err, connect.CodePermissionDenied, tc.reason, "join again")
			_, err = c.Renew(t.Context(), connect.NewRequest(&wirepb.RenewRequest{Csr: csr(t, newKey(t))}))
			wantRefusal(t, err, connect.CodePermissionDenied, tc.reason, "join again")
			if st := h.obs.HostStatus(&model.Host{Metadata: model.Metadata{Name: "web-1", UID: uid}}); st.State == model.HostOnline {
				t.Error("host still online")
			}
		})
	}
}

// An agent that takes nothing off the wire must hold up neither the planner nor
// its own revocation.
func TestSlowAgentBlocksNobody(t *testing.T) {
	h := newHouse(t, Config{})
	slow, _ := h.member("host", "slow")
	ids, _ := h.member("host", "ids")
	slowStream, idsStream := h.mustOpen(slow, "a"), h.mustOpen(ids, "b")
	idsStream.Send(workloads(hostWorkload(map[string]string{"role": "ids"})))
	var many []*wirepb.Workload
	for i := range 400 { // with 20 lines a section of 8 MB: the flow-control window fills
		many = append(many, &wirepb.Workload{Id: fmt.Sprintf("%01000d", i), Kind: "container", Labels: map[string]string{"app": "web"}})
	}
	slowStream.Send(workloads(many...))
	for i := range 20 {
		h.tap(fmt.Sprintf("tap-%d", i), "app=web", "role=ids")
	}
	// Much sooner than the slow agent's silence would end its session.
	h.tap("last", "app=web", "role=ids")
	h.section(idsStream, "deliver", func(s *wirepb.Section) bool { return len(s.GetDeliver().Lines) == 21 })
	h.setHost("slow", func(r *model.Host) { r.Spec.Revoked = true })
	eventually(t, 5*time.Second, "slow session cut", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.live) == 1
	})
}

func TestSessionRefusesWhatIsOutOfPlace(t *testing.T) {
	h := newHouse(t, Config{})
	c, _ := h.member("host", "web-1")
	relay, _ := h.member("relay", "r1")
	_, _, err := h.open(h.client(nil), hello("a"))
	wantRefusal(t, err, connect.CodeUnauthenticated, wire.ReasonNoCertificate, "join first")

	old := hello("a")
	old.Protocol, old.MinProtocol = 0, 0
	_, _, err = h.open(c, old)
	wantRefusal(t, err, connect.CodeFailedPrecondition, wire.ReasonVersion, "upgrade the older")
	young := hello("a")
	young.Protocol, young.MinProtocol = 99, 98
	_, _, err = h.open(c, young)
	wantRefusal(t, err, connect.CodeFailedPrecondition, wire.ReasonVersion, "98 to 99")

	for _, tc := range []struct {
		name string
		who  wirepbconnect.ControllerClient
		m    *wirepb.AgentMessage
	}{
		{"second hello", c, &wirepb.AgentMessage{Body: &wirepb.AgentMessage_Hello{Hello: hello("a")}}},
		{"facts of a relay", relay, &wirepb.AgentMessage{Body: &wirepb.AgentMessage_Facts{Facts: &wirepb.HostFacts{}}}},
		{"host as a relay", c, &wirepb.AgentMessage{Body: &wirepb.AgentMessage_Relay{Relay: &wirepb.RelayReport{}}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st := h.mustOpen(tc.who, "a")
			st.Send(tc.m)
			var err error
			for err == nil {
				_, err = st.Receive()
			}
			wantRefusal(t, err, connect.CodeInvalidArgument, wire.ReasonProtocol, "")
		})
	}
}

func TestClockSkewIsACondition(t *testing.T) {
	h := newHouse(t, Config{})
	c, uid := h.member("host", "web-1")
	m := hello("a")
	m.UnixNanos = time.Now().Add(-3 * time.Hour).UnixNano()
	st, _, err := h.open(c, m)
	if err != nil {
		t.Fatal(err)
	}
	host := &model.Host{Metadata: model.Metadata{Name: "web-1", UID: uid}}
	got := h.obs.HostStatus(host).Conditions
	if len(got) != 1 || got[0].Type != "ClockSkew" || !strings.Contains(got[0].Message, "3h0m0") || !strings.Contains(got[0].Message, "behind") {
		t.Fatalf("conditions %+v, want ClockSkew of three hours", got)
	}
	st.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Heartbeat{Heartbeat: &wirepb.Heartbeat{UnixNanos: time.Now().UnixNano()}}})
	eventually(t, 5*time.Second, "condition over", func() bool { return len(h.obs.HostStatus(host).Conditions) == 0 })
}

func TestSessionEndsWithItsCertificate(t *testing.T) {
	h := newHouse(t, Config{})
	h.ca.life = 1500 * time.Millisecond
	c, _ := h.member("host", "web-1")
	st := h.mustOpen(c, "a")
	var err error
	for err == nil {
		_, err = st.Receive()
	}
	wantRefusal(t, err, connect.CodeUnauthenticated, wire.ReasonExpired, "renewed")
	_, _, err = h.open(c, hello("a")) // over the same connection
	if err == nil {
		t.Error("an expired certificate opened a session")
	}
}

// A policy reaches the hosts of its subjects, and no other; what they report of
// it reaches its status.
func TestPolicyReachesItsHostAndItsReportComesBack(t *testing.T) {
	h := newHouse(t, Config{Failsafe: policy.FailsafeOptions{ControllerPort: 7443}})
	db, _ := h.member("host", "db-1")
	web, _ := h.member("host", "web-1")
	dbStream, webStream := h.mustOpen(db, "d"), h.mustOpen(web, "w")
	dbStream.Send(workloads(hostWorkload(map[string]string{"role": "db"}), &wirepb.Workload{Id: "c", Kind: "container", Name: "c"}))
	webStream.Send(workloads(hostWorkload(map[string]string{"app": "web"})))
	sel, err := model.ParseSelector("role=db")
	if err != nil {
		t.Fatal(err)
	}
	peer, err := model.ParseSelector("app=web")
	if err != nil {
		t.Fatal(err)
	}
	p := model.MustKind(model.KindPolicy).New().(*model.Policy)
	p.Metadata.Name = "db"
	p.Spec = model.PolicySpec{Stage: model.StageActive, Subject: model.PolicySubject{Selector: &sel},
		Ingress: []model.PolicyRule{{Name: "web", Action: model.ActionAllow, From: []model.PolicyPeer{{Selector: &peer}}}}}
	if err := h.store.Create(t.Context(), tester, p, nil); err != nil {
		t.Fatal(err)
	}
	who := h.section(dbStream, "identity", func(s *wirepb.Section) bool { return len(s.GetIdentity().Subjects) > 0 }).GetIdentity()
	if len(who.Subjects) != 1 || who.Subjects[0].Workload != "host" || who.Subjects[0].Staged != "" || len(who.Selectors) != 1 || len(who.Selectors[0].Identities) != 1 {
		t.Errorf("identity section: %v", who)
	}
	h.mu.Lock()
	idle := h.plan.Hosts.Get("web-1").Sections[plan.SectionPolicy]
	h.mu.Unlock()
	if len(idle.GetPolicy().Rulesets) != 0 {
		t.Errorf("a host without subjects was sent %v", idle)
	}
	id := policy.MakeRuleID(p, policy.Ingress, 0)
	dbStream.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Policy{Policy: &wirepb.PolicyReport{Driver: "bpf", Generation: 1,
		Rules:         []*wirepb.RuleCount{{Rule: uint64(id), Connections: 3}},
		Conversations: []*wirepb.Conversation{{Workload: "host", Peer: who.Selectors[0].Identities[0], Protocol: 6, Port: 5432, Connections: 3, Action: "Allow", Rule: uint64(id), LastUnix: 5}}}}})
	eventually(t, 5*time.Second, "the report in the status", func() bool {
		st := h.obs.PolicyStatus(p)
		return len(st.Rules) == 1 && st.Rules[0].Connections == 3
	})
	talk := h.obs.Conversations(time.Time{}).Conversations
	if len(talk) != 1 || talk[0].Workload != "db-1" || talk[0].PeerLabels["app"] != "web" || talk[0].Rule != id.String() {
		t.Errorf("conversations %+v", talk)
	}
}
