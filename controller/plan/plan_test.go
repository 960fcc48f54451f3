package plan

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"weft/internal/golden"
	"weft/model"
	"weft/wire/wirepb"
)

// scene builds a State in a few words.
type scene struct{ State }

func newScene() *scene {
	return &scene{State{TrustDomain: "weft.test", Interfaces: map[string][]model.Interface{}, Filter: func(e string) (Filter, error) {
		if strings.HasPrefix(e, "bad") {
			return Filter{}, errors.New("syntax error at column 1")
		}
		return Filter{Ethernet: []*wirepb.BPFInstruction{{Op: 6, K: uint32(len(e))}}, Raw: []*wirepb.BPFInstruction{{Op: 6, K: 1}}}, nil
	}}}
}

func sel(text string) *model.Selector {
	s, err := model.ParseSelector(text)
	if err != nil {
		panic(err)
	}
	return &s
}

func labels(text string) map[string]string {
	out := map[string]string{}
	for part := range strings.SplitSeq(text, ",") {
		if k, v, ok := strings.Cut(part, "="); ok {
			out[k] = v
		}
	}
	return out
}

func (s *scene) host(name, lbl string, addresses ...string) *scene {
	h := &model.Host{Metadata: model.Metadata{Name: name, UID: "uid-" + name}}
	s.Hosts = append(s.Hosts, h)
	w := &model.Workload{Metadata: model.Metadata{Name: name, UID: WorkloadUID("uid-"+name, "host"), Labels: labels(lbl)}, Spec: model.WorkloadSpec{Host: name, Kind: model.WorkloadHost}}
	w.Metadata.Labels[LabelKind], w.Metadata.Labels[LabelHost] = "host", name
	s.Workloads = append(s.Workloads, w)
	s.Interfaces[name] = []model.Interface{{Name: "eth0", Uplink: true, Addresses: addresses}, {Name: "br0", Addresses: []string{"172.17.0.1/16"}}}
	return s
}

func (s *scene) revoke(name string) *scene {
	for _, h := range s.Hosts {
		if h.Metadata.Name == name {
			h.Spec.Revoked = true
		}
	}
	return s
}

func (s *scene) container(host, name, lbl string, addresses ...string) *scene {
	w := &model.Workload{Metadata: model.Metadata{Name: host + ":" + name, UID: WorkloadUID("uid-"+host, "id/"+name), Labels: labels(lbl)}, Spec: model.WorkloadSpec{Host: host, Kind: model.WorkloadContainer, Addresses: addresses}}
	w.Metadata.Labels[LabelKind], w.Metadata.Labels[LabelHost] = "container", host
	s.Workloads = append(s.Workloads, w)
	return s
}

func (s *scene) relay(name string, revoked bool) *scene {
	s.Relays = append(s.Relays, &model.Relay{Metadata: model.Metadata{Name: name, UID: "uid-" + name}, Spec: model.RelaySpec{Addresses: []string{name + ":443"}, Revoked: revoked}})
	return s
}

func (s *scene) group(name, selector string, nested ...string) *scene {
	g := &model.Group{Metadata: model.Metadata{Name: name}, Spec: model.GroupSpec{Groups: nested}}
	if selector != "" {
		g.Spec.Selector = sel(selector)
	}
	s.Groups = append(s.Groups, g)
	return s
}

func ends(text string) model.Endpoints {
	if name, ok := strings.CutPrefix(text, "@"); ok {
		return model.Endpoints{Group: name}
	}
	return model.Endpoints{Selector: sel(text)}
}

func (s *scene) tap(name, from, to string, change ...func(*model.TapSpec)) *scene {
	t := &model.Tap{Metadata: model.Metadata{Name: name, UID: "uid-" + name}, Spec: model.TapSpec{From: ends(from), To: ends(to)}}
	for _, c := range change {
		c(&t.Spec)
	}
	s.Taps = append(s.Taps, t)
	return s
}

// ring makes a tap keep packets in place of delivering them.
func ring(s *model.TapSpec) { s.To, s.Ring = model.Endpoints{}, &model.Ring{} }

// dump prints a plan so that equal plans give equal text.
func dump(p *Plan) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(p.Taps)) {
		t := p.Taps[name]
		fmt.Fprintf(&b, "tap %s: tools %v refused %v\n", name, t.Tools, t.Refused)
		for _, s := range t.Sources {
			fmt.Fprintf(&b, "  source %s (%s on %s)\n", s.Workload, s.ID, s.Host)
		}
		for _, problem := range t.Problems {
			fmt.Fprintf(&b, "  problem %s\n", problem)
		}
	}
	for _, name := range names(p.policies) {
		one := p.Policy(name)
		fmt.Fprintf(&b, "policy %s: %d workloads on %v %s\n", name, one.Workloads, one.Hosts, one.Problem)
	}
	for _, host := range names(p.Hosts) {
		for _, name := range Sections {
			s := p.Hosts.Get(host).Sections[name]
			if len(s.GetPolicy().GetRulesets())+len(s.GetIdentity().GetSubjects())+len(s.GetIdentity().GetHosts()) == 0 && (name == SectionPolicy || name == SectionIdentity) {
				continue // most scenarios have none
			}
			fmt.Fprintf(&b, "host %s %s %.12s\n", host, name, s.Digest)
			c := proto.CloneOf(s)
			c.Name, c.Digest = "", ""
			// The library puts in spaces at random so that nobody relies on them.
			text := strings.Join(strings.Fields(prototext.MarshalOptions{}.Format(c)), " ")
			fmt.Fprintf(&b, "  %s\n", text)
		}
	}
	return b.String()
}

func names[V any](t *Table[string, V]) []string {
	var out []string
	for name := range t.All() {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func (s *scene) shuffle(r *rand.Rand) State {
	c := s.State
	c.Hosts, c.Relays, c.Groups, c.Taps, c.Workloads, c.Policies = slices.Clone(c.Hosts), slices.Clone(c.Relays), slices.Clone(c.Groups), slices.Clone(c.Taps), slices.Clone(c.Workloads), slices.Clone(c.Policies)
	shuffle(r, c.Policies)
	shuffle(r, c.Hosts)
	shuffle(r, c.Relays)
	shuffle(r, c.Groups)
	shuffle(r, c.Taps)
	shuffle(r, c.Workloads)
	return c
}

func shuffle[T any](r *rand.Rand, s []T) {
	r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}

func cloud() *scene {
	return newScene().relay("r2", false).relay("r1", false).
		host("web-1", "cloud.zone=a", "10.0.0.1/24").container("web-1", "nginx", "app=web").container("web-1", "php", "app=web,tier=back").
		host("web-2", "app=web,cloud.zone=b", "10.0.0.2/24").
		host("ids", "role=ids", "fe80::1/64", "2001:db8::5/64", "192.168.1.5/24")
}

var scenarios = map[string]*scene{
	"empty":          newScene(),
	"hosts-only":     cloud(),
	"tap":            cloud().tap("web-to-ids", "app=web", "role=ids"),
	"group-nested":   cloud().group("web", "app=web").group("all", "cloud.zone in (a,b)", "web").tap("t", "@all", "role=ids"),
	"circle":         cloud().group("a", "", "b").group("b", "", "c").group("c", "", "a").tap("t", "@a", "role=ids"),
	"unknown-group":  cloud().group("a", "app=web", "nobody").tap("t", "@a", "role=ids").tap("u", "@absent", "role=ids"),
	"no-source":      cloud().tap("t", "app=none", "role=ids"),
	"no-tool":        cloud().tap("t", "app=web", "role=none"),
	"tool-no-host":   cloud().tap("t", "app=web", "tier=back"),
	"own-host":       cloud().container("ids", "side", "app=web").tap("t", "app=web", "role=ids"),
	"mutual":         newScene().host("a", "x=1").host("b", "x=1").tap("t", "x=1", "x=1"),
	"two-tools":      cloud().host("ids-2", "role=ids", "192.168.1.6/24").tap("t", "app=web", "role=ids"),
	"revoked-source": cloud().revoke("web-2").tap("t", "app=web", "role=ids"),
	"revoked-tool":   cloud().revoke("ids").tap("t", "app=web", "role=ids"),
	"revoked-relay":  cloud().relay("r0", true).tap("t", "app=web", "role=ids"),
	"paused":         cloud().tap("t", "app=web", "role=ids", func(s *model.TapSpec) { s.Paused = true }),
	"bad-filter":     cloud().tap("t", "app=web", "role=ids", func(s *model.TapSpec) { s.Filter = "bad" }),
	"filter-and-more": cloud().tap("t", "app=web", "role=ids", func(s *model.TapSpec) {
		s.Filter = "tcp port 80"
		s.Snaplen = 128
		s.Direction = model.DirectionIngress
		s.Deliver.Device = "mon0"
	}),
	"ring":        cloud().tap("t", "app=web", "role=ids", ring),
	"ring-paused": cloud().tap("t", "app=web", "role=ids", ring, func(s *model.TapSpec) { s.Paused = true }),
	"ring-and-tap": cloud().tap("t", "app=web", "role=ids").tap("r", "cloud.zone=a", "role=ids", ring, func(s *model.TapSpec) {
		s.Filter = "udp"
		s.Ring = &model.Ring{Size: "1GiB", Age: "2h"}
	}),
	"two-taps": cloud().tap("b", "app=web", "role=ids").tap("a", "cloud.zone=a", "role=ids", func(s *model.TapSpec) { s.Direction = model.DirectionEgress }),
}

// Every scenario in many orders gives the plan that is written down.
func TestPlanOfEveryScenarioInEveryOrder(t *testing.T) {
	for name, s := range scenarios {
		t.Run(name, func(t *testing.T) {
			want := dump(Compute(s.State))
			golden.Equal(t, name+".txt", want)
			r := rand.New(rand.NewPCG(1, 2))
			for range 20 {
				if got := dump(Compute(s.shuffle(r))); got != want {
					t.Fatalf("another order gives another plan:\n%s\nwant:\n%s", got, want)
				}
			}
		})
	}
}

// Whatever order things come and go in, the plan is that of what is there.
func TestPlanDoesNotRememberHowItCameAbout(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	full := cloud().group("web", "app=web").tap("t", "@web", "role=ids").tap("u", "cloud.zone=a", "role=ids")
	want := dump(Compute(full.State))
	for range 50 {
		// Leave parts out, plan, put them back, plan: the last is as if never gone.
		part := full.shuffle(r)
		part.Workloads = part.Workloads[:r.IntN(len(part.Workloads)+1)]
		part.Hosts = part.Hosts[:r.IntN(len(part.Hosts)+1)]
		part.Taps = part.Taps[:r.IntN(len(part.Taps)+1)]
		part.Groups = part.Groups[:r.IntN(len(part.Groups)+1)]
		for name, h := range Compute(part).Hosts.All() {
			if !slices.ContainsFunc(part.Hosts, func(x *model.Host) bool { return x.Metadata.Name == name }) {
				t.Fatalf("plan for %s, which is not there: %v", name, h)
			}
		}
		if got := dump(Compute(full.shuffle(r))); got != want {
			t.Fatal("the plan depends on what was planned before")
		}
	}
}

func TestDigestIsOfTheBody(t *testing.T) {
	p := Compute(scenarios["tap"].State)
	s := p.Hosts.Get("web-1").Sections[SectionCapture]
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(s.GetCapture())
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%x", sha256.Sum256(raw)); s.Digest != want {
		t.Errorf("digest %s, want %s", s.Digest, want)
	}
}

func TestRevokedAppearNowhere(t *testing.T) {
	for _, name := range []string{"revoked-source", "revoked-tool", "revoked-relay"} {
		gone := map[string]string{"revoked-source": "web-2", "revoked-tool": "host/ids", "revoked-relay": "r0"}[name]
		if text := dump(Compute(scenarios[name].State)); strings.Contains(text, gone) {
			t.Errorf("%s: %q is in the plan:\n%s", name, gone, text)
		}
	}
}

// A thousand hosts with ten containers each, ten taps toward three tools.
func BenchmarkCompute(b *testing.B) {
	s := newScene().relay("r", false)
	for i := range 1000 {
		role := "server"
		if i < 3 {
			role = "ids"
		}
		s.host(fmt.Sprintf("h%d", i), "role="+role, "10.0.0.1/24")
		for j := range 10 {
			s.container(fmt.Sprintf("h%d", i), fmt.Sprintf("c%d", j), fmt.Sprintf("app=a%d", j))
		}
	}
	for i := range 10 {
		s.tap(fmt.Sprintf("t%d", i), fmt.Sprintf("app=a%d", i), "role=ids")
	}
	for b.Loop() {
		Compute(s.State)
	}
}
