package importing

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

// randomExpr makes an expression with its meaning.
func randomExpr(g *rand.Rand, key string, depth int) *calExpr {
	v := one(g, "a", "b", "c")
	if depth < 3 && g.IntN(2) == 0 {
		a, b := randomExpr(g, key, depth+1), randomExpr(g, key, depth+1)
		switch g.IntN(3) {
		case 0:
			return &calExpr{"(" + a.text + " && " + b.text + ")", func(l map[string]string) bool { return a.holds(l) && b.holds(l) }}
		case 1:
			return &calExpr{"(" + a.text + "||" + b.text + ")", func(l map[string]string) bool { return a.holds(l) || b.holds(l) }}
		}
		return &calExpr{"! (" + a.text + ")", func(l map[string]string) bool { return !a.holds(l) }}
	}
	switch g.IntN(6) {
	case 0:
		return &calExpr{"all()", func(map[string]string) bool { return true }}
	case 1:
		return &calExpr{"has(" + key + ")", func(l map[string]string) bool { _, has := l[key]; return has }}
	case 2:
		return &calExpr{key + " != \"" + v + "\"", func(l map[string]string) bool { return l[key] != v }}
	case 3:
		return &calExpr{key + " in {'a', '" + v + "'}", func(l map[string]string) bool { return l[key] == "a" || l[key] == v }}
	case 4:
		return &calExpr{key + " not in { \"" + v + "\" }", func(l map[string]string) bool { return l[key] != v }}
	}
	return &calExpr{key + " == '" + v + "'", func(l map[string]string) bool { return l[key] == v }}
}

func randomCalico(g *rand.Rand, namespaces map[string]map[string]string) *calWorld {
	w := &calWorld{tiers: []calTier{{"security", false}, {"platform", true}, {"default", false}}, namespaces: namespaces}
	if g.IntN(2) == 0 {
		w.sets = []calSet{{map[string]string{"pod": "a"}, []string{"192.0.2.0/24"}}, {map[string]string{"other": "x"}, []string{"2001:db8::/32"}}}
	}
	rules := func(egress bool) []calRule {
		var out []calRule
		for range g.IntN(4) {
			r := calRule{action: one(g, "Allow", "Allow", "Deny", "Pass", "Log"), protocol: one(g, "", "TCP", "UDP", "ICMP")}
			if r.protocol == "TCP" || r.protocol == "UDP" {
				if g.IntN(2) == 0 {
					r.peer.ports = one(g, [][2]int{{80, 80}}, [][2]int{{81, 90}, {443, 443}})
				} else if r.action == "Allow" && g.IntN(2) == 0 {
					r.peer.notPorts = [][2]int{{80, 85}}
				}
			}
			switch g.IntN(6) {
			case 0:
				r.peer.nets = one(g, []string{"10.1.0.0/16"}, []string{"192.0.2.0/24", "2001:db8::/32"})
				if g.IntN(2) == 0 {
					r.peer.notNets = []string{"10.1.0.2/32"}
				}
			case 1:
				r.peer.notNets = []string{"10.0.0.0/8"}
			case 2:
				if len(w.sets) == 0 {
					r.peer.notSel = randomExpr(g, "pod", 1)
				}
			case 3, 4:
				r.peer.sel = randomExpr(g, "pod", 0)
				if g.IntN(3) == 0 {
					r.peer.ns = randomExpr(g, "ns", 2)
				}
				// What a policy cannot say: labels with addresses or a family.
				switch g.IntN(30) {
				case 0:
					r.peer.nets = []string{"10.1.0.0/16"}
				case 1:
					r.ipVersion = one(g, 4, 6)
				case 2:
					r.peer.notNets = []string{"10.2.0.0/16"}
				}
			default:
				r.ipVersion = one(g, 0, 4, 6)
			}
			if g.IntN(5) == 0 && len(w.sets) == 0 {
				r.own = randomExpr(g, "pod", 2)
			}
			out = append(out, r)
		}
		return out
	}
	for i := range 1 + g.IntN(6) {
		p := calPolicy{name: fmt.Sprintf("p%d", i), tier: one(g, "security", "platform", "default"), sel: randomExpr(g, "pod", 1), types: one(g, []string{"Ingress"}, []string{"Egress"}, []string{"Ingress", "Egress"})}
		if g.IntN(3) == 0 {
			p.ns = one(g, "a", "b")
		} else if g.IntN(4) == 0 {
			p.nsSel = randomExpr(g, "ns", 2)
		}
		if g.IntN(4) > 0 {
			order := float64(g.IntN(4)) * 10.5
			p.order = &order
		}
		p.ingress, p.egress = rules(false), rules(true)
		w.policies = append(w.policies, p)
	}
	return w
}

func (w *calWorld) manifests(t *testing.T) []File {
	t.Helper()
	var docs []string
	write := func(kind string, meta map[string]any, spec map[string]any) {
		data, err := json.Marshal(map[string]any{"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": meta, "spec": spec})
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, string(data))
	}
	for i, tier := range w.tiers[:2] {
		write("Tier", map[string]any{"name": tier.name}, map[string]any{"order": 100 * (i + 1), "defaultAction": map[bool]string{true: "Pass", false: "Deny"}[tier.pass]})
	}
	for i, s := range w.sets {
		write("GlobalNetworkSet", map[string]any{"name": fmt.Sprint("s", i), "labels": s.labels}, map[string]any{"nets": s.nets})
	}
	for _, p := range w.policies {
		meta, kind := map[string]any{"name": p.name}, "GlobalNetworkPolicy"
		spec := map[string]any{"tier": p.tier, "selector": p.sel.text, "types": p.types, "ingress": calRules(p.ingress, "source", "destination"), "egress": calRules(p.egress, "destination", "source")}
		if p.ns != "" {
			meta["namespace"], kind = p.ns, "NetworkPolicy"
		}
		if p.order != nil {
			spec["order"] = *p.order
		}
		if p.nsSel != nil {
			spec["namespaceSelector"] = p.nsSel.text
		}
		write(kind, meta, spec)
	}
	return []File{{"calico.yaml", []byte(strings.Join(docs, "\n---\n"))}}
}

func calRules(list []calRule, peerSide, ownSide string) []any {
	var out []any
	for _, r := range list {
		sides := map[string]map[string]any{"source": {}, "destination": {}}
		peer, own := sides[peerSide], sides[ownSide]
		for k, e := range map[string]*calExpr{"selector": r.peer.sel, "notSelector": r.peer.notSel, "namespaceSelector": r.peer.ns} {
			if e != nil {
				peer[k] = e.text
			}
		}
		if r.peer.nets != nil {
			peer["nets"] = r.peer.nets
		}
		if r.peer.notNets != nil {
			peer["notNets"] = r.peer.notNets
		}
		for k, l := range map[string][][2]int{"ports": r.peer.ports, "notPorts": r.peer.notPorts} {
			var texts []any
			for _, x := range l {
				if x[0] == x[1] {
					texts = append(texts, x[0])
				} else {
					texts = append(texts, fmt.Sprintf("%d:%d", x[0], x[1]))
				}
			}
			if l != nil {
				sides["destination"][k] = texts
			}
		}
		if r.own != nil {
			own["selector"] = r.own.text
		}
		m := map[string]any{"action": r.action, "source": sides["source"], "destination": sides["destination"]}
		if r.protocol != "" {
			m["protocol"] = r.protocol
		}
		if r.ipVersion != 0 {
			m["ipVersion"] = r.ipVersion
		}
		out = append(out, m)
	}
	return out
}

func TestCalicoEqualsItsMeaning(t *testing.T) {
	namespaces := map[string]map[string]string{"a": {"ns": "a"}, "b": {"ns": "b"}, "c": {}}
	var nodes []*node
	for i, ns := range []string{"a", "b", "c"} {
		for j, pod := range []string{"a", "b", ""} {
			n := &node{name: ns + "/" + pod, ns: ns, labels: map[string]string{}, addr: netip.AddrFrom4([4]byte{10, byte(i + 1), 0, byte(j + 1)})}
			if pod != "" {
				n.labels["pod"] = pod
			}
			nodes = append(nodes, n)
		}
	}
	nodes = append(nodes, &node{name: "world", addr: netip.MustParseAddr("192.0.2.1")}, &node{name: "world6", addr: netip.MustParseAddr("2001:db8::1")}, &node{name: "far", addr: netip.MustParseAddr("198.51.100.1")})
	total, exact := 400, 0
	if testing.Short() {
		total = 100
	}
	for seed := range total {
		w := randomCalico(rand.New(rand.NewPCG(uint64(seed), 7)), namespaces)
		files := w.manifests(t)
		result, err := Import(Calico, files, Options{})
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, files[0].Data)
		}
		if result.Report.Has(Opens) {
			t.Fatalf("seed %d opens: %s", seed, result.Report)
		}
		if !result.Report.Has(Closes) {
			exact++
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("%s", files[0].Data)
				}
			}()
			checkMatrix(t, result, podLabels(nodes, namespaces), probesOf(nodes, 80, 82, 443), w.allowed)
		})
		if t.Failed() {
			return
		}
	}
	if exact < total/2 || exact > total*9/10 {
		t.Errorf("of %d are %d exact", total, exact)
	}
}

// Expressions that are wrong say where; those that cannot be said say why.
func TestCalicoExpressions(t *testing.T) {
	for text, want := range map[string]string{
		"a == 'x' &&":       "at column 12: want a label, all(), has(LABEL), '!' or '(', have \"\"",
		"a = 'x'":           "at column 3: after \"a\" want ==, !=, in, not in, contains, starts with or ends with",
		"a == x":            "at column 6: want a value in quotes",
		"(a == 'x'":         "at column 10: want ')'",
		"a in {'x' 'y'}":    "at column 11: want ',' or '}' after a value",
		"a == 'x' b == 'y'": "at column 10: want && or ||, have \"b == 'y'\"",
		"has()":             "at column 5: want has(LABEL)",
		"a not 'x'":         "at column 3: want \"not in\"",
		"a starts with 'x'": "is not known to weft's labels: \"starts\" compares a part of a value",
		"a == 'x y'":        "is not known to weft's labels: the value \"x y\"",
		"projectcalico.org/orchestrator == 'k8s'":          "is not known to weft's labels: the label \"projectcalico.org/orchestrator\"",
		strings.Repeat("(", 200):                           "is nested too deep",
		strings.Repeat("(a=='1'||b=='1')&&", 9) + "c=='1'": "is not known to weft's labels: it needs more than 64 alternatives",
	} {
		_, err := calicoExpression(text, workloadKey)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
		if strings.HasPrefix(want, "is not known") != errors.Is(err, errUnsaid) {
			t.Errorf("%s: errUnsaid: %v", text, err)
		}
	}
	got, err := calicoExpression("(a == 'x' || has(b)) && !(c in {'1','2'} && global())", workloadKey)
	if err != nil || len(got) != 4 || got[0].String() != "a=x,c notin (1,2)" {
		t.Errorf("%v, %v", got, err)
	}
	if none, err := calicoExpression("!all()", workloadKey); err != nil || none == nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
}
