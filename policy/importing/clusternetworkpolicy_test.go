package importing

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// What ClusterNetworkPolicy means: Admin, NetworkPolicy, Baseline, allowed; in a
// tier the first match in the order of priorities and of rules decides.

type cnpPeer struct {
	ns, pod  *npSelector // pod is nil for {namespaces: …}
	networks []string
}

type cnpRule struct {
	action   string
	peers    []cnpPeer
	protocol string
	port     [2]int // 0 for every one
}

type cnpPolicy struct {
	name            string
	baseline        bool
	priority        int
	subject         cnpPeer
	ingress, egress []cnpRule
}

type cnpCluster struct {
	npCluster
	cluster []cnpPolicy
}

func (c *cnpCluster) selects(p cnpPeer, n *node) bool {
	if p.networks != nil {
		return slices.ContainsFunc(p.networks, func(x string) bool { return netip.MustParsePrefix(x).Contains(n.addr) })
	}
	return n.ns != "" && p.ns.selects(c.namespaces[n.ns]) && (p.pod == nil || p.pod.selects(n.labels))
}

func (c *cnpCluster) tier(baseline bool, p probe, subject, peer *node, egress bool) string {
	list := slices.Clone(c.cluster)
	slices.SortFunc(list, func(a, b cnpPolicy) int { return a.priority - b.priority })
	for _, x := range list {
		if x.baseline != baseline || !c.selects(x.subject, subject) {
			continue
		}
		rules := x.ingress
		if egress {
			rules = x.egress
		}
		for _, r := range rules {
			if r.protocol != "" && (protocolNames[p.protocol] != r.protocol || r.port[0] != 0 && (int(p.port) < r.port[0] || r.port[1] < int(p.port))) {
				continue
			}
			if slices.ContainsFunc(r.peers, func(q cnpPeer) bool { return c.selects(q, peer) }) {
				return r.action
			}
		}
	}
	return "Pass"
}

func (c *cnpCluster) isolated(subject *node, direction string) bool {
	return slices.ContainsFunc(c.policies, func(p netpol) bool {
		return p.Metadata.Namespace == subject.ns && p.Spec.PodSelector.selects(subject.labels) && slices.Contains(p.Spec.PolicyTypes, direction)
	})
}

func (c *cnpCluster) allowed(p probe) bool {
	side := func(subject, peer *node, egress bool, direction string) bool {
		if subject.ns == "" {
			return true
		}
		if v := c.tier(false, p, subject, peer, egress); v != "Pass" {
			return v == "Accept"
		}
		if c.isolated(subject, direction) {
			return c.npCluster.side(p, subject, peer, direction)
		}
		return c.tier(true, p, subject, peer, egress) != "Deny"
	}
	return side(p.from, p.to, true, "Egress") && side(p.to, p.from, false, "Ingress")
}

func randomCluster(g *rand.Rand, namespaces map[string]map[string]string) *cnpCluster {
	c := &cnpCluster{npCluster: npCluster{namespaces: namespaces}}
	peer := func(egress bool) cnpPeer {
		p := cnpPeer{ns: one(g, labelled(), labelled("ns", "x"), expr("ns", "NotIn", "z"))}
		if g.IntN(2) == 0 {
			p.pod = one(g, labelled(), labelled("pod", "a"), expr("pod", "In", "b", "c"))
		}
		if egress && g.IntN(4) == 0 {
			p = cnpPeer{networks: one(g, []string{"10.1.0.0/16"}, []string{"0.0.0.0/0", "::/0"}, []string{"192.0.2.0/24"})}
		}
		return p
	}
	rules := func(egress bool) []cnpRule {
		var out []cnpRule
		for range g.IntN(4) {
			r := cnpRule{action: one(g, "Accept", "Deny", "Pass"), protocol: one(g, "", "TCP", "UDP", "SCTP")}
			if r.protocol != "" {
				r.port = one(g, [2]int{}, [2]int{80, 80}, [2]int{80, 81})
			}
			for range 1 + g.IntN(2) {
				r.peers = append(r.peers, peer(egress))
			}
			out = append(out, r)
		}
		return out
	}
	priorities := g.Perm(20)
	for i := range 1 + g.IntN(4) {
		p := cnpPolicy{name: fmt.Sprint("c", i), baseline: g.IntN(2) == 0, priority: priorities[i], subject: peer(false), ingress: rules(false), egress: rules(true)}
		c.cluster = append(c.cluster, p)
	}
	for i := range g.IntN(3) {
		np := randomPolicy(g, i)
		np.Spec.PolicyTypes = []string{"Ingress", "Egress"}
		c.policies = append(c.policies, np)
	}
	return c
}

// write makes manifests of v1alpha2 or, where old is set, of the kinds before it.
func (c *cnpCluster) write(t *testing.T, old bool) string {
	peerOf := func(p cnpPeer) map[string]any {
		switch {
		case p.networks != nil:
			return map[string]any{"networks": p.networks}
		case p.pod == nil:
			return map[string]any{"namespaces": p.ns}
		}
		return map[string]any{"pods": map[string]any{"namespaceSelector": p.ns, "podSelector": p.pod}}
	}
	rulesOf := func(list []cnpRule, side string) []any {
		out := []any{}
		for _, r := range list {
			peers := []any{}
			for _, p := range r.peers {
				peers = append(peers, peerOf(p))
			}
			m := map[string]any{"action": r.action, side: peers}
			if old && r.action == "Accept" {
				m["action"] = "Allow"
			}
			switch {
			case r.protocol == "":
			case old && r.port[0] == 0:
				m["ports"] = []any{map[string]any{"portRange": map[string]any{"protocol": r.protocol, "start": 1, "end": 65535}}}
			case old && r.port[0] == r.port[1]:
				m["ports"] = []any{map[string]any{"portNumber": map[string]any{"protocol": r.protocol, "port": r.port[0]}}}
			case old:
				m["ports"] = []any{map[string]any{"portRange": map[string]any{"protocol": r.protocol, "start": r.port[0], "end": r.port[1]}}}
			case r.port[0] == 0:
				m["protocols"] = []any{map[string]any{strings.ToLower(r.protocol): map[string]any{"destinationPort": map[string]any{"range": map[string]any{"start": 1, "end": 65535}}}}}
			case r.port[0] == r.port[1]:
				m["protocols"] = []any{map[string]any{strings.ToLower(r.protocol): map[string]any{"destinationPort": map[string]any{"number": r.port[0]}}}}
			default:
				m["protocols"] = []any{map[string]any{strings.ToLower(r.protocol): map[string]any{"destinationPort": map[string]any{"range": map[string]any{"start": r.port[0], "end": r.port[1]}}}}}
			}
			out = append(out, m)
		}
		return out
	}
	var docs []string
	for _, p := range c.cluster {
		spec := map[string]any{"priority": p.priority, "subject": peerOf(p.subject), "ingress": rulesOf(p.ingress, "from"), "egress": rulesOf(p.egress, "to")}
		doc := map[string]any{"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": meta{Name: p.name}, "spec": spec}
		if old {
			doc["apiVersion"], doc["kind"] = "policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"
			if p.baseline {
				doc["kind"] = "BaselineAdminNetworkPolicy"
				delete(spec, "priority")
			}
		} else {
			spec["tier"] = map[bool]string{true: "Baseline", false: "Admin"}[p.baseline]
		}
		data, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, string(data))
	}
	return strings.Join(docs, "\n---\n")
}

func TestClusterNetworkPolicyEqualsItsMeaning(t *testing.T) {
	namespaces, all := threeNamespaces()
	nodes := append([]*node{all[0], all[1], all[3], all[4], all[8]}, all[9:11]...)
	total := 250
	if testing.Short() {
		total = 60
	}
	for seed := range total {
		c := randomCluster(rand.New(rand.NewPCG(uint64(seed), 5)), namespaces)
		old := seed%3 == 0
		if old { // there is one Baseline policy only
			seen := false
			c.cluster = slices.DeleteFunc(c.cluster, func(p cnpPolicy) bool {
				gone := p.baseline && seen
				seen = seen || p.baseline
				return gone
			})
		}
		files := append(c.manifests(t, nil, seed%2 == 0), File{"cluster.yaml", []byte(c.write(t, old))})
		result, err := Import(ClusterNetworkPolicy, files, Options{})
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, files[1].Data)
		}
		if result.Report.Has(Closes) || result.Report.Has(Opens) {
			t.Fatalf("seed %d: %s", seed, result.Report)
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("%s\n%s", files[0].Data, files[1].Data)
				}
			}()
			probes := slices.DeleteFunc(probesOf(nodes, 80, 81, 85), func(p probe) bool { return p.from == p.to })
			checkMatrix(t, result, podLabels(nodes, namespaces), probes, c.allowed)
		})
		if t.Failed() {
			return
		}
	}
}
