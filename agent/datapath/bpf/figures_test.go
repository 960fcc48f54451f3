package bpf

import (
	"os/exec"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"weft/agent/connection"
	"weft/agent/datapath/datapathtest"
	"weft/internal/application"
	"weft/model"
	"weft/policy"
)

// metered is a machine on which nothing is turned down.
func metered(t *testing.T) (*Driver, *datapathtest.Site) {
	t.Helper()
	m, w := unapplied(t)
	if err := m.Apply(t.Context(), w.State); err != nil {
		t.Fatal(err)
	}
	return m.Driver, m.site
}

func unapplied(t *testing.T) (inMachine, *datapathtest.World) {
	t.Helper()
	return listening(t, nil)
}

func listening(t *testing.T, l Listener) (inMachine, *datapathtest.World) {
	t.Helper()
	pins := mountBPF(t)
	s := datapathtest.NewSite(t)
	return opened(t, s, Config{CgroupRoot: s.Root, PinDir: pins}, Deps{Hellos: l})
}

func opened(t *testing.T, s *datapathtest.Site, cfg Config, deps Deps) (inMachine, *datapathtest.World) {
	t.Helper()
	d, err := Open(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	m := inMachine{d, s}
	t.Cleanup(func() {
		if err := m.Remove(); err != nil {
			t.Error(err)
		}
	})
	return m, s.World(model.ModeObserve)
}

// linesOf are the lines between two ports, seen from the first.
func linesOf(t *testing.T, d *Driver, x told) (out []connection.Line) {
	t.Helper()
	err := d.Connections(func(c *connection.Line) bool {
		if c.Local == x.Local && c.Remote == x.Remote {
			out = append(out, *c)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What the kernel hands on as one is counted as what a wire would have carried,
// which is what the kernel says of its own sockets.
func TestSuperFramesAreCountedAsOnAWire(t *testing.T) {
	d, s := metered(t)
	if out, err := exec.Command("nsenter", "--net="+s.Machine, "ip", "link", "set", "lo", "mtu", "1500").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for what, header := range map[string]uint64{"bulk4": 20 + 20, "bulk6": 40 + 20, "segments": 20 + 8} {
		for _, x := range inside(t, what, s.Machine, s.Endpoint("machine").Cgroup) {
			list := linesOf(t, d, x)
			if len(list) != 1 {
				t.Fatalf("%s: %d lines of %+v", what, len(list), x)
			}
			c := &list[0]
			if c.Sent.Packets != x.Sent || c.Received.Packets != x.Received {
				t.Errorf("%s: %+v sent, %+v received; the socket says %+v", what, c.Sent, c.Received, x)
			}
			// Options come on top: timestamps on every packet of TCP, more on the first.
			least, most := x.SentBytes+x.Sent*header, x.SentBytes+x.Sent*header
			if what != "segments" {
				least, most = least+x.Sent*12, most+x.Sent*40
			}
			if c.Sent.Bytes < least || c.Sent.Bytes > most {
				t.Errorf("%s: %d bytes sent, from %d to %d expected", what, c.Sent.Bytes, least, most)
			}
		}
	}
}

// Connections that take the ports of others within a reading lose nothing.
func TestPortsComeAgain(t *testing.T) {
	d, s := metered(t)
	truth := inside(t, "reuse", s.Machine, s.Endpoint("machine").Cgroup)
	counts := func() (packets uint64) {
		t.Helper()
		list, err := d.Counts()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			packets += c.Packets
		}
		return packets
	}
	before := counts()
	list := linesOf(t, d, truth[0])
	if len(truth) != reuses || len(list) != reuses {
		t.Fatalf("%d connections, %d lines", len(truth), len(list))
	}
	began := map[uint64]bool{}
	var bytes, sent uint64
	for i := range list {
		if c := &list[i]; c.Direction == policy.Egress {
			began[c.Began] = true
			bytes, sent = bytes+c.Sent.Bytes, sent+c.Sent.Packets
		}
	}
	var want, packets uint64
	for _, x := range truth {
		want, packets = want+x.SentBytes+x.Sent*(20+20+12), packets+x.Sent
	}
	// A SYN has eight bytes more of options; some are sent twice, where the other end
	// has not let go of the connection before.
	more := bytes - want
	if len(began) != reuses || sent != packets || more%8 != 0 || more < reuses*8 || more > 2*reuses*8 {
		t.Errorf("%d connections, %d packets of %d bytes sent; %d packets of %d bytes expected", len(began), sent, bytes, packets, want)
	}
	// What has been forgotten of those that made way is in no reading, and rules'
	// counts have it all still.
	if err := d.Forget(); err != nil {
		t.Fatal(err)
	}
	if list = linesOf(t, d, truth[0]); len(list) != 1 {
		t.Errorf("%d lines when they were forgotten", len(list))
	}
	if after := counts(); after != before || after < packets {
		t.Errorf("rules have counted %d packets, then %d", before, after)
	}
}

// What a container did before anybody knew of it is its own, not its machine's.
func TestKnownLaterThanItSpoke(t *testing.T) {
	m, w := unapplied(t)
	d, s := m.Driver, m.site
	early := *w.State
	early.Subjects = nil
	for _, x := range w.State.Subjects {
		if x.Workload != "unit" {
			early.Subjects = append(early.Subjects, x)
		}
	}
	if err := m.Apply(t.Context(), &early); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.Hold(t, "unit", "c2", "tcp", 80)
	who := func() (out []string) {
		t.Helper()
		err := d.Connections(func(c *connection.Line) bool {
			if c.Direction == policy.Egress && c.Remote.Addr() == s.Endpoint("c2").IPv4 && c.Remote.Port() == 80 && c.First.After(began.Add(-20*time.Millisecond)) {
				out = append(out, c.Workload)
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := who(); len(got) != 1 || got[0] != "machine" {
		t.Errorf("before the unit is known: %q", got)
	}
	if err := m.Apply(t.Context(), w.State); err != nil {
		t.Fatal(err)
	}
	if got := who(); len(got) != 1 || got[0] != "unit" {
		t.Errorf("after it is: %q", got)
	}
}

// ear recognises what it hears.
type ear struct {
	mu    sync.Mutex
	heard map[connection.Key]*application.Recogniser
	known map[connection.Key]application.Application
	bytes int
}

func (e *ear) Hear(x *connection.Hello) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.heard[x.Key] == nil {
		e.heard[x.Key] = application.New(x.Protocol != 6)
	}
	side := application.Client
	if x.Called {
		side = application.Server
	}
	e.bytes += len(x.Bytes)
	e.known[x.Key], _ = e.heard[x.Key].Feed(side, x.When, x.Bytes)
}

func (e *ear) of(x told) (out [2]application.Application) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for k, a := range e.known {
		if k.Local == x.Local && k.Remote == x.Remote {
			out[0] = a
		}
		if k.Local == x.Remote && k.Remote == x.Local {
			out[1] = a
		}
	}
	return out
}

// The first bytes of real connections tell what they are used for, at both ends;
// of those of whom nothing may be read, none are.
func TestHellosAreHandedOver(t *testing.T) {
	e := &ear{heard: map[connection.Key]*application.Recogniser{}, known: map[connection.Key]application.Application{}}
	m, w := listening(t, e)
	if err := m.Apply(t.Context(), w.State); err != nil {
		t.Fatal(err)
	}
	pages := inside(t, "web", m.site.Machine, m.site.Endpoint("machine").Cgroup)
	if len(pages) != 2 {
		t.Fatalf("%d connections", len(pages))
	}
	plain := application.Application{Protocol: application.HTTP, Host: webHost, Method: "GET", Path: "/orders/{id}", Status: 418}
	secure := application.Application{Protocol: application.TLS, Host: webHost, ALPN: "http/1.1"}
	for i, want := range []application.Application{plain, secure} {
		var got [2]application.Application
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			got = e.of(pages[i])
			for k := range got {
				got[k].Latency = 0
			}
			if reflect.DeepEqual(got, [2]application.Application{want, want}) || time.Now().After(end) {
				break
			}
		}
		if !reflect.DeepEqual(got, [2]application.Application{want, want}) {
			t.Errorf("%+v, want %+v at both ends", got, want)
		}
	}
	quiet := *w.State
	quiet.Subjects = slices.Clone(quiet.Subjects)
	for i := range quiet.Subjects {
		quiet.Subjects[i].Unnamed = true
	}
	if err := m.Apply(t.Context(), &quiet); err != nil {
		t.Fatal(err)
	}
	e.mu.Lock()
	before := e.bytes
	e.mu.Unlock()
	inside(t, "web", m.site.Machine, m.site.Endpoint("machine").Cgroup)
	time.Sleep(200 * time.Millisecond)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.bytes != before {
		t.Errorf("%d bytes were read of those of whom none may be", e.bytes-before)
	}
}

// A datagram that comes late is no beginning, however few came before.
func TestLateDatagramsAreNotHandedOver(t *testing.T) {
	e := &ear{heard: map[connection.Key]*application.Recogniser{}, known: map[connection.Key]application.Application{}}
	m, w := listening(t, e)
	if err := m.Apply(t.Context(), w.State); err != nil {
		t.Fatal(err)
	}
	heard := func(want int, when string) (x told) {
		t.Helper()
		x = inside(t, "datagram", m.site.Machine, m.site.Endpoint("machine").Cgroup)[0]
		got := 0
		for end := time.Now().Add(5 * time.Second); got < want && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			e.mu.Lock()
			got = e.bytes
			e.mu.Unlock()
		}
		time.Sleep(3 * gatherHellos)
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.bytes != want {
			t.Errorf("%s: %d bytes were heard of, want %d", when, e.bytes, want)
		}
		return x
	}
	heard(2*datagramBytes, "the first, at both ends")
	x := heard(4*datagramBytes, "the second")
	for _, x := range []told{x, {Local: x.Remote, Remote: x.Local}} {
		var c policyConn
		k := m.keyOf(t, x)
		if err := m.objects.Conns.Lookup(k, &c); err != nil {
			t.Fatal(err)
		}
		c.FirstNs -= uint64(6 * time.Second)
		if err := m.objects.Conns.Put(k, c); err != nil {
			t.Fatal(err)
		}
	}
	heard(4*datagramBytes, "one that came after six seconds")
}

// A ring may be closed at any moment of its reading.
func TestRingsAreClosedAsTheyAreRead(t *testing.T) {
	e := &ear{heard: map[connection.Key]*application.Recogniser{}, known: map[connection.Key]application.Application{}}
	m, w := listening(t, e)
	if err := m.Apply(t.Context(), w.State); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		h, err := newHearer(m.Driver)
		if err != nil {
			t.Fatal(err)
		}
		h.close()
	}
}
