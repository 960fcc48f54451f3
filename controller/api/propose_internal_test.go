package api

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"weft/controller/observe"
	"weft/model"
)

func mustSelector(text string) *model.Selector {
	s, err := model.ParseSelector(text)
	if err != nil {
		panic(err)
	}
	return &s
}

func groupOf(name, selector string, nested ...string) *model.Group {
	g := model.MustKind(model.KindGroup).New().(*model.Group)
	g.Metadata.Name, g.Spec.Groups = name, nested
	if selector != "" {
		g.Spec.Selector = mustSelector(selector)
	}
	return g
}

func TestProposalNamesPeersAsPeopleWould(t *testing.T) {
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	web := map[string]string{"app": "web", "host.name": "h1", "workload.kind": "container"}
	talk := func(change func(*observe.Conversation)) *observe.Conversation {
		c := &observe.Conversation{Workload: "h1:web", Labels: web, Direction: "egress", Protocol: 6, Port: 443, Action: model.ActionAllow, Connections: 1, First: at, Last: at.Add(time.Hour)}
		change(c)
		return c
	}
	list := []*observe.Conversation{
		talk(func(c *observe.Conversation) {
			c.Peer, c.PeerLabels, c.Port = "db", map[string]string{"role": "db", "host.name": "db"}, 5432
		}),
		talk(func(c *observe.Conversation) {
			c.PeerLabels, c.Port = map[string]string{"tier": "cache", "host.name": "x", "container.id": "abc"}, 6379
		}),
		talk(func(c *observe.Conversation) { c.PeerLabels, c.Port = map[string]string{"host.name": "plain"}, 22 }),
		talk(func(c *observe.Conversation) { c.Names, c.PeerAddress = []string{"api.example.org"}, "198.51.100.1" }),
		talk(func(c *observe.Conversation) { c.Names, c.PeerAddress = []string{"NOT a name\n- x"}, "198.51.100.2" }),
		talk(func(c *observe.Conversation) {
			c.Entities, c.Protocol, c.Port, c.PeerAddress = []string{"dns"}, 17, 53, "10.0.0.53"
		}),
		talk(func(c *observe.Conversation) {
			c.Direction, c.Protocol, c.Port, c.PeerAddress = "ingress", 1, 8<<8, "203.0.113.9"
		}),
		talk(func(c *observe.Conversation) { c.Port, c.PeerAddress, c.Action = 25, "203.0.113.25", model.ActionDeny }),
	}
	for n := range 20 {
		list = append(list, talk(func(c *observe.Conversation) {
			c.Direction, c.Port, c.PeerAddress = "ingress", 8080, fmt.Sprintf("192.0.2.%d", n+1)
		}))
	}
	p, err := propose("all", []*model.Group{groupOf("all", "", "front"), groupOf("front", "app=web"), groupOf("databases", "role=db"), groupOf("everybody", "*")}, observe.Recorded{Conversations: list, Lost: 2})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Policies) != 1 || p.Policies[0].Metadata.Name != "proposed-front" || p.Policies[0].Spec.Stage != model.StageStaged || len(p.Notes) != 1 {
		t.Fatalf("%+v", p)
	}
	var got []string
	for i, r := range append(p.Policies[0].Spec.Ingress, p.Policies[0].Spec.Egress...) {
		peer := append(r.From, r.To...)[0]
		text := fmt.Sprint(peer.Entities, peer.DomainNames)
		if peer.Selector != nil {
			text = peer.Selector.String()
		}
		for _, b := range peer.IPBlocks {
			text += " " + b.CIDR
		}
		if p.Evidence[i].Rule != r.Name {
			t.Errorf("evidence %d is of %s, the rule is %s", i, p.Evidence[i].Rule, r.Name)
		}
		got = append(got, fmt.Sprintf("%s: %s %d ports, %d connections", r.Name, text, len(r.Ports), p.Evidence[i].Connections))
	}
	want := strings.Split(strings.TrimSpace(`
from-world-tcp-8080: [world] [] 1 ports, 20 connections
from-world-icmp-2048: [] [] 203.0.113.9/32 1 ports, 1 connections
to-api-example-org: [] [api.example.org] 1 ports, 1 connections
to-dns: [dns] [] 1 ports, 1 connections
to-host-name-plain: host.name=plain 1 ports, 1 connections
to-role-db: role=db 1 ports, 1 connections
to-tier-cache: tier=cache 1 ports, 1 connections
to-world-tcp-443: [] [] 198.51.100.2/32 1 ports, 1 connections`), "\n")
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Whatever agents report, what is proposed is a valid policy.
func TestProposalsAreValid(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	groups := []*model.Group{groupOf("g", "app=web"), groupOf("p", "role in (db,cache)")}
	for range 200 {
		var list []*observe.Conversation
		for range r.IntN(60) + 1 {
			c := &observe.Conversation{Workload: "w", Labels: map[string]string{"app": "web"}, Direction: pick("ingress", "egress"), Action: model.ActionAllow,
				Protocol: uint8(r.IntN(256)), Port: uint16(r.IntN(65536)), PeerAddress: pick("10.0.0.1", "2001:db8::1", "", "nonsense", "::ffff:10.0.0.1", "fe80::1%eth0")}
			if r.IntN(2) == 0 {
				c.PeerLabels = map[string]string{pick("role", "app", "x", "host.name"): pick("db", "a.b", "")}
			}
			if r.IntN(3) == 0 {
				c.Names = []string{pick("example.org", "Bad Name", "", "*.x.org", strings.Repeat("a", 300))}
			}
			if r.IntN(3) == 0 {
				c.Entities = []string{pick("dns", "host", "self", "unheard-of")}
			}
			list = append(list, c)
		}
		p, err := propose("g", groups, observe.Recorded{Conversations: list})
		if err != nil {
			t.Fatal(err)
		}
		for i := range p.Policies {
			if err := p.Policies[i].Validate(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
