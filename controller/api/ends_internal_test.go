package api

import (
	"strings"
	"testing"

	"weft/controller/plan"
	"weft/model"
	"weft/policy"
)

func TestServices(t *testing.T) {
	for text, want := range map[string][2]uint16{
		"tcp/5432": {6, 5432}, "UDP/53": {17, 53}, "sctp/3868": {132, 3868}, "6/80": {6, 80}, "tcp/0": {6, 0},
		"icmp/8": {1, 8 << 8}, "icmp/3.1": {1, 3<<8 | 1}, "icmp": {1, 8 << 8}, "icmpv6": {58, 128 << 8}, "ICMPv6/135": {58, 135 << 8}, "gre": {47, 0}, "47": {47, 0}, "89": {89, 0},
	} {
		protocol, port, err := parseService(text)
		if err != nil || uint16(protocol) != want[0] || port != want[1] {
			t.Errorf("%s: %d/%d, %v; want %v", text, protocol, port, err, want)
		}
	}
	for _, text := range []string{"", "tcp", "tcp/", "tcp/http", "tcp/65536", "tcp/-1", "icmp/256", "icmp/3.x", "gre/1", "256", "foo/1", "/80"} {
		if protocol, port, err := parseService(text); err == nil || !strings.Contains(err.Error(), "write it like tcp/5432") {
			t.Errorf("%q: %d/%d, %v", text, protocol, port, err)
		}
	}
}

// Every service that is printed can be asked about.
func TestPrintedServicesCanBeRead(t *testing.T) {
	for n := range 256 {
		p := newPacket(policy.End{}, policy.End{}, uint8(n), 0x0803)
		text := strings.ToLower(serviceOf(p))
		protocol, port, err := parseService(text)
		if err != nil || protocol != uint8(n) || (model.HasPorts(protocol) || model.IsICMP(protocol)) && port != 0x0803 {
			t.Errorf("protocol %d is printed %q and read %d/%d, %v", n, text, protocol, port, err)
		}
	}
}

// Fleets that are compared number identities alike, and those of the gone too.
func TestWorldsNumberAlike(t *testing.T) {
	workload := func(name, app string) *model.Workload {
		return &model.Workload{Metadata: model.Metadata{Name: name, Labels: map[string]string{"app": app, "role": name, plan.LabelKind: "host"}}, Spec: model.WorkloadSpec{Host: name, Kind: model.WorkloadHost}}
	}
	p := model.MustKind(model.KindPolicy).New().(*model.Policy)
	p.Metadata.Name, p.Spec.Subject.Selector, p.Spec.Ingress = "p", mustSelector("role=a"), []model.PolicyRule{{Action: model.ActionDeny}}
	now := &fleet{workloads: []*model.Workload{workload("a", "x"), workload("b", "x")}}
	list, err := worlds([]map[string]string{{"role": "gone"}}, now, now.over([]*model.Policy{p}, nil))
	if err != nil {
		t.Fatal(err)
	}
	before, after := list[0], list[1]
	if before.Identities != after.Identities {
		t.Error("the worlds have identities of their own")
	}
	if before.ByWorkload["a"] == before.ByWorkload["b"] {
		t.Error("the first world does not tell apart what the second does")
	}
	if id := after.Find(map[string]string{"role": "gone", "other": "label"}); id == 0 || after.Identities.Labels(id)["role"] != "gone" {
		t.Errorf("who is gone is %d", id)
	}
	if id := after.Find(map[string]string{"role": "never"}); id != 0 {
		t.Errorf("who never was is %d", id)
	}
}
