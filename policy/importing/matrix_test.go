package importing

import (
	"fmt"
	"net/netip"
	"testing"

	"weft/model"
	"weft/policy"
)

// node is an end of the traffic in these tests: a pod where it has a namespace.
type node struct {
	name, ns string
	labels   map[string]string
	ports    map[string]int // "TCP/name": number
	addr     netip.Addr
	entities policy.EntitySet
}

// probe is one packet of the matrix.
type probe struct {
	from, to *node
	protocol uint8
	port     uint16
}

var protocolNames = map[uint8]string{1: "ICMP", 6: "TCP", 17: "UDP", 132: "SCTP"}

func (p probe) String() string {
	return fmt.Sprintf("%s -> %s %s/%d", p.from.name, p.to.name, protocolNames[p.protocol], p.port)
}

// everyMode is what the policies must not depend on.
var everyMode = []model.Mode{model.ModeObserve, model.ModeSelective, model.ModeEnforce}

// identityLabels are a pod's as docs/guide/importing.md has them.
func identityLabels(n *node, namespaces map[string]map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range n.labels {
		out[k] = v
	}
	if n.ns != "" {
		out["k8s.namespace"] = n.ns
		for k, v := range namespaces[n.ns] {
			out["k8s.ns/"+k] = v
		}
	}
	return out
}

// checkMatrix compares every probe's verdict by policies, in each mode and by the
// reference and the compiled engine, with what it should be: exactly, or where the
// report says that something closes, at most.
func checkMatrix(t *testing.T, result *Result, labels map[*node]map[string]string, probes []probe, want func(probe) bool) {
	t.Helper()
	worlds := map[model.Mode]*policy.World{}
	engines := map[model.Mode]*policy.Engine{}
	identity := map[*node]policy.Identity{}
	var sets []map[string]string
	for _, l := range labels {
		sets = append(sets, l)
	}
	for _, mode := range everyMode {
		ids := policy.NewIdentities(sets...)
		w := &policy.World{Policies: result.Policies, Identities: ids, Modes: map[policy.Identity]model.Mode{}, Through: model.StageStaged}
		for n, l := range labels {
			identity[n], _ = ids.Intern(l)
		}
		for _, id := range ids.All() {
			w.Modes[id] = mode
		}
		set, err := policy.Compile(w)
		if err != nil {
			t.Fatal(err)
		}
		worlds[mode], engines[mode] = w, policy.NewEngine(set)
	}
	failures, atMost := 0, result.Report.Has(Closes)
	for _, p := range probes {
		packet := policy.Packet{
			Source:      policy.End{Addr: p.from.addr, Identity: identity[p.from], Entities: p.from.entities},
			Destination: policy.End{Addr: p.to.addr, Identity: identity[p.to], Entities: p.to.entities},
			Protocol:    p.protocol, SourcePort: 40000, DestinationPort: p.port, ICMPType: 8, // an echo request where it is ICMP
		}
		if p.from == p.to {
			packet.Source.Entities |= policy.EntityBit(model.EntitySelf)
			packet.Destination.Entities |= policy.EntityBit(model.EntitySelf)
		}
		expected := want(p)
		for _, mode := range everyMode {
			joint, compiled := worlds[mode].EvaluateBoth(&packet), engines[mode].JudgeBoth(&packet)
			if allowed := joint.Action() == model.ActionAllow; allowed != expected && (allowed || !atMost) || compiled != joint {
				t.Errorf("%s in %s: want allowed %t\nreference: egress %s, ingress %s\ncompiled:  egress %s, ingress %s", p, mode, expected, joint.Egress, joint.Ingress, compiled.Egress, compiled.Ingress)
				if failures++; failures > 3 {
					t.Fatal("and more")
				}
			}
		}
	}
}
