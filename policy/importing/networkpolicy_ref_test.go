package importing

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"

	"weft/model"
	"weft/policy"
)

// The types below are NetworkPolicy as its JSON has it, and the functions are its
// meaning as the Kubernetes API reference states it, without anything of weft.

type npSelector struct {
	MatchLabels      map[string]string `json:"matchLabels,omitempty"`
	MatchExpressions []npExpression    `json:"matchExpressions,omitempty"`
}

type npExpression struct {
	Key      string   `json:"key"`
	Operator string   `json:"operator"`
	Values   []string `json:"values,omitempty"`
}

type npBlock struct {
	CIDR   string   `json:"cidr"`
	Except []string `json:"except,omitempty"`
}

type npPeer struct {
	PodSelector       *npSelector `json:"podSelector,omitempty"`
	NamespaceSelector *npSelector `json:"namespaceSelector,omitempty"`
	IPBlock           *npBlock    `json:"ipBlock,omitempty"`
}

type npPort struct {
	Protocol string `json:"protocol,omitempty"`
	Port     any    `json:"port,omitempty"` // int or string
	EndPort  int    `json:"endPort,omitempty"`
}

type npRule struct {
	From  []npPeer `json:"from,omitempty"`
	To    []npPeer `json:"to,omitempty"`
	Ports []npPort `json:"ports,omitempty"`
}

type npSpec struct {
	PodSelector npSelector `json:"podSelector"`
	PolicyTypes []string   `json:"policyTypes,omitempty"`
	Ingress     []npRule   `json:"ingress,omitempty"`
	Egress      []npRule   `json:"egress,omitempty"`
}

type meta struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
}

type netpol struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   meta   `json:"metadata"`
	Spec       npSpec `json:"spec"`
}

func np(ns, name string, spec npSpec) netpol {
	return netpol{"networking.k8s.io/v1", "NetworkPolicy", meta{Name: name, Namespace: ns}, spec}
}

func labelled(kv ...string) *npSelector {
	s := &npSelector{}
	for i := 0; i < len(kv); i += 2 {
		if s.MatchLabels == nil {
			s.MatchLabels = map[string]string{}
		}
		s.MatchLabels[kv[i]] = kv[i+1]
	}
	return s
}

func expr(key, op string, values ...string) *npSelector {
	return &npSelector{MatchExpressions: []npExpression{{key, op, values}}}
}

func (s *npSelector) selects(labels map[string]string) bool {
	for k, v := range s.MatchLabels {
		if got, has := labels[k]; !has || got != v {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		got, has := labels[e.Key]
		switch e.Operator {
		case "In":
			if !has || !slices.Contains(e.Values, got) {
				return false
			}
		case "NotIn":
			if has && slices.Contains(e.Values, got) {
				return false
			}
		case "Exists":
			if !has {
				return false
			}
		case "DoesNotExist":
			if has {
				return false
			}
		}
	}
	return true
}

// npCluster is the namespaces, with their labels, and the policies.
type npCluster struct {
	namespaces map[string]map[string]string
	policies   []netpol
}

// allowed is the whole meaning of NetworkPolicy.
func (c *npCluster) allowed(p probe) bool {
	if p.from == p.to {
		return true // nothing can stop a pod from reaching itself
	}
	return c.side(p, p.from, p.to, "Egress") && c.side(p, p.to, p.from, "Ingress")
}

func (c *npCluster) side(p probe, subject, peer *node, direction string) bool {
	if subject.ns == "" || peer.entities&policy.EntityBit(model.EntityHost) != 0 {
		return true // not a pod; or its node, which is always allowed
	}
	isolated := false
	for _, np := range c.policies {
		if np.Metadata.Namespace != subject.ns || !np.Spec.PodSelector.selects(subject.labels) {
			continue
		}
		types := np.Spec.PolicyTypes
		if types == nil {
			types = []string{"Ingress"}
			if len(np.Spec.Egress) > 0 {
				types = append(types, "Egress")
			}
		}
		if !slices.Contains(types, direction) {
			continue
		}
		isolated = true
		rules := np.Spec.Ingress
		if direction == "Egress" {
			rules = np.Spec.Egress
		}
		for _, r := range rules {
			if c.ruleAllows(r, np.Metadata.Namespace, p, peer) {
				return true
			}
		}
	}
	return !isolated
}

func (c *npCluster) ruleAllows(r npRule, ns string, p probe, peer *node) bool {
	peers := append(slices.Clone(r.From), r.To...)
	peerOK := len(peers) == 0
	for _, x := range peers {
		peerOK = peerOK || c.peerIs(x, ns, peer)
	}
	portOK := len(r.Ports) == 0
	for _, x := range r.Ports {
		portOK = portOK || portIs(x, p)
	}
	return peerOK && portOK
}

func (c *npCluster) peerIs(x npPeer, ns string, peer *node) bool {
	if x.IPBlock != nil {
		in := netip.MustParsePrefix(x.IPBlock.CIDR).Contains(peer.addr)
		for _, e := range x.IPBlock.Except {
			in = in && !netip.MustParsePrefix(e).Contains(peer.addr)
		}
		return in
	}
	if peer.ns == "" || x.PodSelector != nil && !x.PodSelector.selects(peer.labels) {
		return false
	}
	if x.NamespaceSelector == nil {
		return peer.ns == ns
	}
	return x.NamespaceSelector.selects(c.namespaces[peer.ns])
}

func portIs(x npPort, p probe) bool {
	protocol := x.Protocol
	if protocol == "" {
		protocol = "TCP"
	}
	if protocolNames[p.protocol] != protocol {
		return false
	}
	switch port := x.Port.(type) {
	case string:
		n, has := p.to.ports[protocol+"/"+port]
		return has && int(p.port) == n
	case int:
		if x.EndPort != 0 {
			return port <= int(p.port) && int(p.port) <= x.EndPort
		}
		return int(p.port) == port
	}
	return true
}

// manifests writes the policies and, if asked, namespaces and pods.
func (c *npCluster) manifests(t *testing.T, nodes []*node, withNamespaces bool) []File {
	t.Helper()
	list := []any{}
	for _, p := range c.policies {
		list = append(list, p)
	}
	if withNamespaces {
		for name, labels := range c.namespaces {
			list = append(list, map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": meta{Name: name, Labels: labels}})
		}
	}
	for _, n := range nodes {
		if n.ns == "" {
			continue
		}
		ports := []any{}
		for name, number := range n.ports {
			protocol, name, _ := cutProtocol(name)
			ports = append(ports, map[string]any{"name": name, "containerPort": number, "protocol": protocol})
		}
		list = append(list, map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": meta{n.name, n.ns, n.labels}, "spec": map[string]any{"containers": []any{map[string]any{"name": "c", "ports": ports}}}})
	}
	data, err := json.MarshalIndent(map[string]any{"apiVersion": "v1", "kind": "List", "items": list}, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	return []File{{Name: "cluster.json", Data: data}}
}
