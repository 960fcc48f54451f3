package importing

import (
	"maps"
	"testing"
)

// The situations that Kubernetes' own conformance tests of network policies
// describe, in namespaces x, y and z with pods a, b and c, ports 80 and 81 and
// three protocols. Each is a list of policies, perhaps with labels changed.
func TestNetworkPolicyConformance(t *testing.T) {
	in, out, both := []string{"Ingress"}, []string{"Egress"}, []string{"Ingress", "Egress"}
	every := *labelled()
	a := *labelled("pod", "a")
	from := func(peers ...npPeer) npRule { return npRule{From: peers} }
	to := func(peers ...npPeer) npRule { return npRule{To: peers} }
	pods := func(s *npSelector) npPeer { return npPeer{PodSelector: s} }
	spaces := func(s *npSelector) npPeer { return npPeer{NamespaceSelector: s} }
	two := func(ns, pod *npSelector) npPeer { return npPeer{NamespaceSelector: ns, PodSelector: pod} }
	block := func(cidr string, except ...string) npPeer { return npPeer{IPBlock: &npBlock{cidr, except}} }
	ingress := func(s npSelector, rules ...npRule) npSpec {
		return npSpec{PodSelector: s, PolicyTypes: in, Ingress: rules}
	}
	egress := func(s npSelector, rules ...npRule) npSpec {
		return npSpec{PodSelector: s, PolicyTypes: out, Egress: rules}
	}
	ports := func(r npRule, list ...npPort) npRule { r.Ports = list; return r }
	x := func(specs ...npSpec) []netpol {
		var list []netpol
		for i, s := range specs {
			list = append(list, np("x", string(rune('p'+i)), s))
		}
		return list
	}
	scenarios := []struct {
		name     string
		policies []netpol
		change   func(namespaces map[string]map[string]string, nodes []*node)
	}{
		{name: "no policy: everything passes"},
		{name: "deny all ingress", policies: x(ingress(every))},
		{name: "deny all egress", policies: x(egress(every))},
		{name: "deny all", policies: x(npSpec{PodSelector: every, PolicyTypes: both})},
		{name: "allow all ingress", policies: x(ingress(every, from()))},
		{name: "allow all egress", policies: x(egress(every, to()))},
		{name: "allow all over deny all", policies: x(ingress(every), ingress(every, from()))},
		{name: "from pods of the same namespace", policies: x(ingress(a, from(pods(labelled("pod", "b")))))},
		{name: "from any pod of the same namespace", policies: x(ingress(a, from(pods(labelled()))))},
		{name: "from a namespace by its label", policies: x(ingress(a, from(spaces(labelled("ns", "y")))))},
		{name: "from a namespace by its name", policies: x(ingress(a, from(spaces(labelled("kubernetes.io/metadata.name", "z")))))},
		{name: "from namespaces by expression", policies: x(ingress(a, from(spaces(expr("ns", "In", "y", "z")))))},
		{name: "from pods by expression", policies: x(ingress(a, from(pods(expr("pod", "In", "b", "c")))))},
		{name: "from pod and namespace", policies: x(ingress(a, from(two(labelled("ns", "y"), labelled("pod", "a")))))},
		{name: "from pod or namespace", policies: x(ingress(a, from(spaces(labelled("ns", "y")), pods(labelled("pod", "b")))))},
		{name: "from pod and namespace by expressions", policies: x(ingress(a, from(two(expr("ns", "NotIn", "x"), expr("pod", "NotIn", "a", "b")))))},
		{name: "from a port of a namespace", policies: x(ingress(a, ports(from(spaces(labelled("ns", "y"))), npPort{Port: 81})))},
		{name: "only one port", policies: x(ingress(a, ports(from(), npPort{Protocol: "TCP", Port: 80})))},
		{name: "several ports in stacked policies", policies: x(ingress(a, ports(from(), npPort{Port: 80})), ingress(a, ports(from(spaces(labelled("ns", "y"))), npPort{Port: 81})))},
		{name: "several rules in one policy", policies: x(ingress(a, ports(from(spaces(labelled("ns", "y"))), npPort{Port: 80}), ports(from(spaces(labelled("ns", "z"))), npPort{Port: 81})))},
		{name: "a range of ports", policies: x(egress(a, ports(to(), npPort{Protocol: "TCP", Port: 81, EndPort: 89})))},
		{name: "a named port", policies: x(ingress(a, ports(from(), npPort{Port: "serve-80-tcp"})))},
		{name: "a named port from a namespace", policies: x(ingress(a, ports(from(spaces(labelled("ns", "x"))), npPort{Port: "serve-81-tcp"})))},
		{name: "a named port in egress", policies: x(egress(a, ports(to(), npPort{Protocol: "UDP", Port: "serve-80-udp"})))},
		{name: "no UDP", policies: x(ingress(every, ports(from(), npPort{Protocol: "TCP"}, npPort{Protocol: "SCTP"})))},
		{name: "only UDP on a port", policies: x(ingress(a, ports(from(), npPort{Protocol: "UDP", Port: 80})))},
		{name: "only SCTP on a port", policies: x(ingress(a, ports(from(), npPort{Protocol: "SCTP", Port: 80})))},
		{name: "to pods of a namespace", policies: x(egress(a, to(two(labelled("ns", "y"), labelled("pod", "a")))))},
		{name: "to a port", policies: x(egress(a, ports(to(), npPort{Port: 80})))},
		{name: "to a block", policies: x(egress(a, to(block("10.2.0.0/24"))))},
		{name: "to a block but an address", policies: x(egress(a, to(block("10.2.0.0/24", "10.2.0.1/32"))))},
		{name: "to a block, its exception allowed by another policy", policies: x(egress(a, to(block("10.2.0.0/24", "10.2.0.1/32"))), egress(a, to(block("10.2.0.1/32"))))},
		{name: "from a block with bits after the prefix", policies: x(ingress(a, from(block("10.2.0.7/24"))))},
		{name: "egress of one, ingress of the other", policies: append(x(egress(a, to(spaces(labelled("ns", "y"))))), np("y", "q", ingress(every, from(two(labelled("ns", "x"), labelled("pod", "a"))))))},
		{name: "ingress and egress in one policy", policies: x(npSpec{PodSelector: a, PolicyTypes: both, Ingress: []npRule{from(pods(labelled("pod", "b")))}, Egress: []npRule{to(pods(labelled("pod", "c")))}})},
		{name: "types left out", policies: x(npSpec{PodSelector: a, Egress: []npRule{to(pods(labelled("pod", "c")))}})},
		{name: "rules of a type that is not named", policies: x(npSpec{PodSelector: a, PolicyTypes: in, Egress: []npRule{to(pods(labelled("pod", "c")))}})},
		{name: "a policy for no pod", policies: x(ingress(*labelled("pod", "nobody")))},
		{name: "isolated in every namespace", policies: []netpol{np("x", "p", ingress(every)), np("y", "p", ingress(every)), np("z", "p", ingress(every))}},
		{name: "a namespace got another label", policies: x(ingress(a, from(spaces(labelled("ns", "y"))))), change: func(namespaces map[string]map[string]string, _ []*node) {
			namespaces["y"] = map[string]string{"ns": "y2", "kubernetes.io/metadata.name": "y"}
		}},
		{name: "a pod got another label", policies: x(ingress(a, from(pods(labelled("pod", "b", "pod2", "updated"))))), change: func(_ map[string]map[string]string, nodes []*node) {
			nodes[1].labels = map[string]string{"pod": "b", "pod2": "updated"}
		}},
		{name: "the subject lost its label", policies: x(ingress(a)), change: func(_ map[string]map[string]string, nodes []*node) { nodes[0].labels = map[string]string{} }},
	}
	if len(scenarios) < 30 {
		t.Errorf("%d scenarios", len(scenarios))
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			for _, withNamespaces := range []bool{false, true} {
				namespaces, nodes := threeNamespaces()
				if s.change != nil {
					s.change(namespaces, nodes)
				}
				if s.policies == nil { // something must be there to import
					s.policies = []netpol{np("elsewhere", "p", ingress(every))}
				}
				checkCluster(t, &npCluster{namespaces, s.policies}, nodes, withNamespaces, probesOf(nodes, 80, 81))
			}
		})
	}
}

// Policies by labels of namespaces follow a change of those labels without a new
// import, where no Namespace was in the files.
func TestNamespaceLabelsAreLive(t *testing.T) {
	namespaces, nodes := threeNamespaces()
	c := &npCluster{namespaces, []netpol{np("x", "p", npSpec{PodSelector: *labelled(), Ingress: []npRule{{From: []npPeer{{NamespaceSelector: labelled("ns", "y")}}}}})}}
	result, err := Import(Kubernetes, c.manifests(t, nil, false), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"y", "other"} {
		c.namespaces = maps.Clone(namespaces)
		c.namespaces["y"] = map[string]string{"ns": value}
		checkMatrix(t, result, podLabels(nodes, c.namespaces), probesOf(nodes, 80), c.allowed)
	}
}
