package datapathtest

import (
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/agent/datapath"
	"weft/model"
)

// Options say what a driver can and cannot do.
type Options struct {
	// SeesSockets is whether the driver tells workloads of one namespace apart
	// as peers, and their processes.
	SeesSockets bool
	// Processes is whether it judges by executables.
	Processes bool
	// Older is whether connections that were open before the driver go on, judged
	// by their programs.
	Older bool
	// Pings is whether it judges what the kernel itself answers.
	Pings bool
	// Accounts is whether it counts a connection's packets.
	Accounts bool
	// Names is whether it judges by the names that addresses were looked up by.
	Names bool
	// Tamper changes what the driver has made, as an intruder would; each call
	// another thing, false when it knows no more.
	Tamper func(t *testing.T, n int) bool
	// Rejects is whether a sender is told by a reset or an ICMP message.
	Rejects bool
}

// Factory opens a driver on a site; called again it is a restart.
type Factory func(t *testing.T, s *Site) datapath.Driver

// patience is how long silence is taken for a denial.
const patience = 400 * time.Millisecond

// answerPatience is how long an answer that must come is waited for: a busy machine
// gives it late, which is no denial. It is less than the second after which TCP asks
// again, so that the first packet has to pass.
const answerPatience = 900 * time.Millisecond

// Run tries a driver.
func Run(t *testing.T, o Options, open Factory) {
	s := NewSite(t)
	run(t, s, o, open)
}

func run(t *testing.T, s *Site, o Options, open Factory) {
	d := open(t, s)
	suite := &suite{Site: s, options: o, open: open, driver: d}
	for _, c := range []struct {
		name string
		can  bool // what a driver cannot do it must refuse, which is its own test
		run  func(*testing.T)
	}{
		{"matrix", true, suite.matrix}, {"live cut", true, suite.liveCut}, {"restart", true, suite.restart}, {"processes", o.Processes, suite.processes}, {"renumbered", true, suite.renumbered},
		{"stateless", true, suite.stateless}, {"new cgroup", true, suite.newCgroup}, {"connections", true, suite.connections}, {"names", o.Names, suite.names},
		{"tamper", o.Tamper != nil, suite.tamper}, {"remove", true, suite.remove},
		{"older sockets", o.Older && o.Processes, suite.olderSockets},
	} {
		if c.can && !t.Run(c.name, c.run) {
			return // what follows would say little
		}
	}
}

type suite struct {
	*Site
	options Options
	open    Factory
	driver  datapath.Driver
}

func (s *suite) apply(t *testing.T, w *World) {
	t.Helper()
	if err := s.driver.Apply(t.Context(), w.State); err != nil {
		t.Fatal(err)
	}
}

// worlds of the matrix: mode, then policies.
var worlds = []struct {
	name     string
	mode     model.Mode
	policies []string
}{
	{"observe", model.ModeObserve, nil},
	{"enforce", model.ModeEnforce, nil},
	{"selectors", model.ModeEnforce, []string{`
  subject: {selector: "app=db"}
  ingress: [{action: Allow, from: [{selector: "app=web"}], ports: [{protocol: TCP, port: 5432}]}]`, `
  subject: {selector: "app=web"}
  egress: [{action: Allow, to: [{selector: "app in (db,machine)"}]}]`}},
	{"ports and protocols", model.ModeEnforce, []string{`
  subject: {selector: "*"}
  ingress: [{action: Allow, ports: [{protocol: TCP, port: 80, endPort: 443}, {protocol: UDP, port: 53}]}]
  egress: [{action: Allow}]`}},
	{"entities", model.ModeEnforce, []string{`
  subject: {selector: "workload.kind=container"}
  ingress: [{action: Allow, from: [{entities: [host]}]}]
  egress: [{action: Allow, to: [{entities: [world, self]}]}]`, `
  subject: {selector: "workload.kind=host"}
  ingress: [{action: Allow, from: [{entities: [fleet]}], ports: [{protocol: TCP}]}]
  egress: [{action: Allow, to: [{entities: [any]}]}]`}},
	{"blocks", model.ModeEnforce, []string{`
  subject: {selector: "*"}
  ingress:
  - {action: Allow, from: [{ipBlocks: [{cidr: 10.77.0.0/16, except: [10.77.0.2/32]}, {cidr: "fd77::/16"}]}]}
  - {action: Allow, from: [{ipBlocks: [{cidr: 10.78.0.0/24, includeManaged: true}]}]}
  egress: [{action: Allow, to: [{ipBlocks: [{cidr: 0.0.0.0/0, includeManaged: true}, {cidr: "fd78::/64", except: ["fd78::12/128"], includeManaged: true}]}]}]`}},
	{"tiers", model.ModeObserve, []string{`
  tier: Security
  subject: {selector: "*"}
  ingress:
  - {action: Pass, from: [{selector: "app=web"}]}
  - {action: Deny, ports: [{protocol: TCP, port: 443}]}`, `
  tier: Application
  subject: {selector: "app in (db,unit)"}
  ingress: [{action: Deny, from: [{selector: "app=web"}], ports: [{protocol: TCP, port: 80}, {protocol: TCP, port: 1080}, {protocol: UDP}]}]`}},
	{"selective", model.ModeSelective, []string{`
  subject: {selector: "app=db"}
  ingress: [{action: Allow, from: [{selector: "app=web"}]}]`, `
  subject: {selector: "app=unit"}
  egress: []`}},
	{"icmp", model.ModeEnforce, []string{`
  subject: {selector: "*"}
  egress: [{action: Allow}]`, `
  subject: {selector: "app in (web,machine)"}
  ingress: [{action: Allow, from: [{selector: "app=db"}], ports: [{protocol: ICMP, icmp: {type: 8}}, {protocol: ICMPv6, icmp: {type: 128, code: 0}}]}]`, `
  subject: {selector: "app=db"}
  ingress: [{action: Allow, from: [{entities: [world]}], ports: [{protocol: ICMP}]}]`}},
	{"reject", model.ModeObserve, []string{`
  subject: {selector: "app=db"}
  ingress: [{action: Reject, ports: [{protocol: TCP, port: 80}, {protocol: UDP, port: 53}]}, {action: Deny, ports: [{protocol: TCP, port: 443}]}]`, `
  subject: {selector: "app in (web,unit)"}
  egress: [{action: Reject, to: [{entities: [world, host]}], ports: [{protocol: TCP}, {protocol: UDP}]}]`}},
}

func (s *suite) matrix(t *testing.T) {
	for _, c := range worlds {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			w := s.World(c.mode, c.policies...)
			s.apply(t, w)
			s.try(t, w, s.attempts())
		})
	}
}

// attempts are all pairs on all ports, over IPv4, IPv6 and, within a namespace,
// loopback.
func (s *suite) attempts() []Attempt {
	var out []Attempt
	for _, from := range s.Endpoints {
		for _, to := range s.Endpoints {
			for _, v6 := range []bool{false, true} {
				for _, p := range TCPPorts {
					out = append(out, Attempt{From: from, To: to, Network: "tcp", Port: s.portOf(to, p), IPv6: v6})
				}
				for _, p := range UDPPorts {
					out = append(out, Attempt{From: from, To: to, Network: "udp", Port: s.portOf(to, p), IPv6: v6})
				}
				if s.options.Pings && to.Kind != model.WorkloadUnit { // whose namespace is its machine's
					out = append(out, Attempt{From: from, To: to, Network: "icmp", IPv6: v6})
				}
				if from.NetNS == to.NetNS {
					out = append(out, Attempt{From: from, To: to, Network: "tcp", Port: s.portOf(to, 80), IPv6: v6, Loopback: true})
				}
			}
		}
	}
	return out
}

// try makes the attempts at once and compares them with the reference.
func (s *suite) try(t *testing.T, w *World, list []Attempt) {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	wrong, kinds := 0, map[Outcome]int{}
	room := make(chan struct{}, 64)
	for _, a := range list {
		wg.Add(1)
		room <- struct{}{}
		go func() {
			defer func() { <-room; wg.Done() }()
			want := w.Expect(a, s.options.SeesSockets)
			if want == Allowed || want == Rejected && s.options.Rejects {
				a.Patience = answerPatience
			}
			got, err := s.dial(a)
			mu.Lock()
			defer mu.Unlock()
			kinds[want]++
			if got == want || want == Rejected && got == Denied && (!s.options.Rejects || refusedHere(err)) {
				return
			}
			if wrong++; wrong <= 10 {
				t.Errorf("%s: %s, the reference says %s (%v)", a, got, want, err)
			}
		}()
	}
	wg.Wait()
	t.Logf("%d attempts, %v, %d wrong", len(list), kinds, wrong)
}

// refusedHere says whether a sender was told by its own kernel, which is what it
// hears of a datagram that is dropped on its way out, rejected or not.
func refusedHere(err error) bool {
	return err != nil && strings.Contains(err.Error(), syscall.EPERM.Error())
}

// dial makes one attempt; an allowed one is closed again.
func (s *suite) dial(a Attempt) (Outcome, error) {
	got, held, err := s.caller.Dial(a)
	if got == Allowed {
		s.caller.Close(a.From, held)
	}
	return got, err
}
