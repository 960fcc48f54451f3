package importing

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"weft/model"
	"weft/policy"
)

func cutProtocol(s string) (string, string, bool) { return strings.Cut(s, "/") }

// threeNamespaces are x, y and z with pods a, b and c, as the conformance tests of
// Kubernetes have them, and what is outside.
func threeNamespaces() (map[string]map[string]string, []*node) {
	namespaces := map[string]map[string]string{}
	var nodes []*node
	for i, ns := range []string{"x", "y", "z"} {
		namespaces[ns] = map[string]string{"ns": ns, "kubernetes.io/metadata.name": ns}
		for j, pod := range []string{"a", "b", "c"} {
			nodes = append(nodes, &node{name: ns + "/" + pod, ns: ns, labels: map[string]string{"pod": pod},
				addr:  netip.AddrFrom4([4]byte{10, byte(i + 1), 0, byte(j + 1)}),
				ports: map[string]int{"TCP/serve-80-tcp": 80, "TCP/serve-81-tcp": 81, "UDP/serve-80-udp": 80, "SCTP/serve-81-sctp": 81}})
		}
	}
	return namespaces, append(nodes,
		&node{name: "outside", addr: netip.MustParseAddr("192.0.2.1")},
		&node{name: "outside6", addr: netip.MustParseAddr("2001:db8::1")},
		&node{name: "node", addr: netip.MustParseAddr("10.0.0.9"), entities: policy.EntityBit(model.EntityHost)})
}

func probesOf(nodes []*node, ports ...uint16) []probe {
	var out []probe
	for _, a := range nodes {
		for _, b := range nodes {
			if a.ns == "" && b.ns == "" {
				continue
			}
			for _, protocol := range []uint8{6, 17, 132} {
				for _, port := range ports {
					out = append(out, probe{a, b, protocol, port})
				}
			}
			out = append(out, probe{a, b, 1, 0})
		}
	}
	return out
}

func podLabels(nodes []*node, namespaces map[string]map[string]string) map[*node]map[string]string {
	out := map[*node]map[string]string{}
	for _, n := range nodes {
		if n.ns != "" {
			out[n] = identityLabels(n, namespaces)
		}
	}
	return out
}

func checkCluster(t *testing.T, c *npCluster, nodes []*node, withNamespaces bool, probes []probe) {
	t.Helper()
	checkClusterCloses(t, c, nodes, withNamespaces, probes, false)
}

func checkClusterCloses(t *testing.T, c *npCluster, nodes []*node, withNamespaces bool, probes []probe, closes bool) {
	t.Helper()
	files := c.manifests(t, nodes, withNamespaces)
	result, err := Import(Kubernetes, files, Options{})
	if err != nil {
		t.Fatalf("%v\n%s", err, files[0].Data)
	}
	if result.Report.Has(Closes) != closes || result.Report.Has(Opens) {
		t.Fatalf("not as exact as it should be:\n%s", result.Report)
	}
	checkMatrix(t, result, podLabels(nodes, c.namespaces), probes, c.allowed)
	if t.Failed() {
		t.Fatalf("manifests:\n%s", files[0].Data)
	}
}

// Every combination of a kind of peer, a kind of port, a direction, the policy's
// types and its subject.
func TestNetworkPolicyCombinations(t *testing.T) {
	peers := map[string][]npPeer{
		"none":                nil,
		"pods":                {{PodSelector: labelled("pod", "b")}},
		"every pod":           {{PodSelector: labelled()}},
		"not b":               {{PodSelector: expr("pod", "NotIn", "b")}},
		"namespaces":          {{NamespaceSelector: labelled("ns", "y")}},
		"every namespace":     {{NamespaceSelector: labelled()}},
		"not y":               {{NamespaceSelector: expr("ns", "NotIn", "y")}},
		"namespaces by name":  {{NamespaceSelector: expr("kubernetes.io/metadata.name", "In", "x", "z")}},
		"both":                {{PodSelector: labelled("pod", "b"), NamespaceSelector: labelled("ns", "y")}},
		"both without":        {{PodSelector: expr("pod", "Exists"), NamespaceSelector: expr("none", "DoesNotExist")}},
		"nobody":              {{NamespaceSelector: labelled("ns", "nowhere")}},
		"block":               {{IPBlock: &npBlock{CIDR: "10.2.0.0/16"}}},
		"block and exception": {{IPBlock: &npBlock{CIDR: "10.0.0.0/8", Except: []string{"10.2.0.2/32", "10.1.0.0/16", "10.1.0.1/32"}}}},
		"the internet":        {{IPBlock: &npBlock{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8"}}}, {IPBlock: &npBlock{CIDR: "::/0"}}},
		"pods or block":       {{PodSelector: labelled("pod", "a")}, {IPBlock: &npBlock{CIDR: "192.0.2.0/24"}}},
	}
	ports := map[string][]npPort{
		"none":          nil,
		"one":           {{Protocol: "TCP", Port: 80}},
		"default":       {{Port: 81}},
		"range":         {{Protocol: "UDP", Port: 81, EndPort: 90}},
		"protocol":      {{Protocol: "SCTP"}},
		"named":         {{Protocol: "TCP", Port: "serve-81-tcp"}},
		"named and one": {{Protocol: "SCTP", Port: "serve-81-sctp"}, {Protocol: "UDP", Port: 80}},
	}
	types := map[string][]string{"none": nil, "ingress": {"Ingress"}, "egress": {"Egress"}, "both": {"Ingress", "Egress"}}
	namespaces, all := threeNamespaces()
	nodes := []*node{all[0], all[1], all[3], all[4], all[8], all[9], all[10], all[11]}
	probes := probesOf(nodes, 80, 81, 85)
	if testing.Short() {
		probes = probesOf(nodes, 80, 81)
	}
	n := 0
	for pn, peer := range peers {
		for portName, port := range ports {
			for _, direction := range []string{"ingress", "egress"} {
				for tn, typ := range types {
					for i, subject := range []*npSelector{labelled(), labelled("pod", "a")} {
						spec := npSpec{PodSelector: *subject, PolicyTypes: typ}
						if direction == "ingress" {
							spec.Ingress = []npRule{{From: peer, Ports: port}}
						} else {
							spec.Egress = []npRule{{To: peer, Ports: port}}
						}
						n++
						c := &npCluster{namespaces, []netpol{np("x", "p", spec)}}
						t.Run(fmt.Sprintf("%s/%s/%s/%s/%d", pn, portName, direction, tn, i), func(t *testing.T) {
							// A name is no port of an address, so that part is left out where
							// the rule counts: in a direction the policy is for.
							closes := strings.HasPrefix(portName, "named") && direction == "egress" && tn != "ingress" && (strings.Contains(pn, "block") || pn == "the internet")
							checkClusterCloses(t, c, nodes, n%2 == 0, probes, closes)
						})
					}
				}
			}
		}
	}
	if n < 1500 {
		t.Errorf("%d combinations", n)
	}
}

// Stacks of random policies in all namespaces.
func TestNetworkPolicyStacks(t *testing.T) {
	namespaces, nodes := threeNamespaces()
	total := 150
	if testing.Short() {
		total = 30
	}
	probes := probesOf(nodes, 80, 81)
	for seed := range total {
		g := rand.New(rand.NewPCG(uint64(seed), 4))
		c := &npCluster{namespaces: namespaces}
		for i := range 1 + g.IntN(5) {
			c.policies = append(c.policies, randomPolicy(g, i))
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) { checkCluster(t, c, nodes, seed%2 == 0, probes) })
	}
}

func one[T any](g *rand.Rand, list ...T) T { return list[g.IntN(len(list))] }

func randomPolicy(g *rand.Rand, i int) netpol {
	rules := func() []npRule {
		var out []npRule
		for range g.IntN(3) {
			r := npRule{}
			for range g.IntN(3) {
				sel := func() *npSelector {
					return one(g, nil, labelled(), labelled("pod", "a"), expr("pod", "In", "a", "c"), expr("pod", "NotIn", "b"))
				}
				p := npPeer{PodSelector: sel(), NamespaceSelector: one(g, nil, labelled(), labelled("ns", "x"), expr("ns", "NotIn", "z"))}
				if p.PodSelector == nil && p.NamespaceSelector == nil {
					p.IPBlock = one(g, &npBlock{CIDR: "10.1.0.0/16"}, &npBlock{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8"}}, &npBlock{CIDR: "10.0.0.0/8", Except: []string{"10.1.0.0/24", "10.3.0.1/32"}})
				}
				r.From = append(r.From, p)
			}
			for range g.IntN(3) {
				r.Ports = append(r.Ports, one(g, npPort{Port: 80}, npPort{Protocol: "UDP"}, npPort{Protocol: "SCTP", Port: 80, EndPort: 81}, npPort{Protocol: "TCP", Port: 81}))
			}
			out = append(out, r)
		}
		return out
	}
	spec := npSpec{PodSelector: *one(g, labelled(), labelled("pod", "a"), expr("pod", "NotIn", "a")), PolicyTypes: one(g, nil, []string{"Ingress"}, []string{"Egress"}, []string{"Egress", "Ingress"})}
	spec.Ingress, spec.Egress = rules(), rules()
	for i := range spec.Egress {
		spec.Egress[i].From, spec.Egress[i].To = nil, spec.Egress[i].From
	}
	return np(one(g, "x", "y", "z"), fmt.Sprintf("p%d", i), spec)
}
