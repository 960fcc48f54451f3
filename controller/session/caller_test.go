package session

import (
	"bytes"
	"testing"

	"weft/model"
	"weft/wire/wirepb"
)

// Two hosts are told each other's keys where a rule of one asks about the other;
// the one without subjects learns too which of its workloads are to say who calls.
func TestHostsAreToldWhoMayCall(t *testing.T) {
	h := newHouse(t, Config{})
	keys := map[string][]byte{"db-1": bytes.Repeat([]byte{1}, 32), "web-1": bytes.Repeat([]byte{2}, 32)}
	streams := map[string]*clientStream{}
	for name, key := range keys {
		member, _ := h.member("host", name)
		streams[name] = h.mustOpen(member, name)
		streams[name].Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Facts{Facts: &wirepb.HostFacts{CallerKey: key}}})
	}
	streams["db-1"].Send(workloads(hostWorkload(map[string]string{"role": "db"})))
	streams["web-1"].Send(workloads(hostWorkload(nil), &wirepb.Workload{Id: "c", Kind: "container", Name: "c", Labels: map[string]string{"app": "web"}}))
	db, err := model.ParseSelector("role=db")
	if err != nil {
		t.Fatal(err)
	}
	web, err := model.ParseSelector("app=web")
	if err != nil {
		t.Fatal(err)
	}
	p := model.MustKind(model.KindPolicy).New().(*model.Policy)
	p.Metadata.Name = "db"
	p.Spec = model.PolicySpec{Stage: model.StageActive, Subject: model.PolicySubject{Selector: &db},
		Ingress: []model.PolicyRule{{Name: "web", Action: model.ActionAllow, From: []model.PolicyPeer{{Selector: &web}}}}}
	if err := h.store.Create(t.Context(), tester, p, nil); err != nil {
		t.Fatal(err)
	}
	told := map[string]*wirepb.IdentitySection{}
	for name, other := range map[string]string{"db-1": "web-1", "web-1": "db-1"} {
		told[name] = h.section(streams[name], "identity", func(s *wirepb.Section) bool {
			list := s.GetIdentity().GetHosts()
			return len(list) == 1 && bytes.Equal(list[0].CallerKey, keys[other])
		}).GetIdentity()
	}
	if told["db-1"].Host != told["web-1"].Hosts[0].Number || told["web-1"].Host != told["db-1"].Hosts[0].Number {
		t.Errorf("numbers: %v\n%v", told["db-1"], told["web-1"])
	}
	if n := len(told["web-1"].Bearers); n != 2 || len(told["web-1"].Subjects) != 0 {
		t.Errorf("%v", told["web-1"])
	}
	if ids := told["db-1"].Hosts[0].Identities; len(ids) != 2 {
		t.Errorf("who lives on web-1: %v", ids)
	}
}
