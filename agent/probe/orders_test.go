package probe

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft/model"
	"weft/wire/wirepb"
)

// service answers each question, or holds it until who asks is gone.
func service(t *testing.T, hold *atomic.Bool) (url string, asked, underway *atomic.Int64) {
	t.Helper()
	asked, underway = &atomic.Int64{}, &atomic.Int64{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		underway.Add(1)
		defer underway.Add(-1)
		if hold != nil && hold.Load() {
			<-r.Context().Done()
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, asked, underway
}

func ordered(id uint64, url string, change ...func(*wirepb.ProbeSpec)) *wirepb.ProbeOrder {
	s := &wirepb.ProbeSpec{Kind: "http", Target: url, Concurrency: 2, Count: 20, TimeoutMillis: 10_000, TimeMillis: 60_000}
	for _, f := range change {
		f(s)
	}
	return &wirepb.ProbeOrder{Id: id, Spec: s}
}

// ending reads until a probe says that it has ended.
func ending(t *testing.T, o *Orders, id uint64) *wirepb.ProbeProgress {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case p := <-o.Progress():
			if p.Id == id && p.Ended {
				return p
			}
		case <-limit:
			t.Fatal("the probe does not end")
		}
	}
}

func idle(t *testing.T, what string, n *atomic.Int64) {
	t.Helper()
	for range 200 {
		if n.Load() == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%s: %d questions are under way", what, n.Load())
}

// What is ordered is asked, once, however often it is said.
func TestOrders(t *testing.T) {
	url, asked, _ := service(t, nil)
	o := NewOrders(Config{}, Deps{})
	all := &wirepb.ProbeOrders{Orders: []*wirepb.ProbeOrder{ordered(7, url)}}
	o.Want(all)
	o.Want(all)
	p := ending(t, o, 7)
	if p.Result.GetOk() != 20 || p.Result.GetP99() <= 0 || asked.Load() != 20 || o.deps.Budget.Asked() != 20 {
		t.Errorf("it ends with %v, asked were %d", p, asked.Load())
	}
	o.Want(all)
	select {
	case p := <-o.Progress():
		t.Errorf("said again, it says %v", p)
	case <-time.After(100 * time.Millisecond):
	}
}

// An agent says what it does not do, and does less of nothing.
func TestOrdersHaveLimits(t *testing.T) {
	for want, change := range map[string]func(*wirepb.ProbeSpec){
		"asks 256 at one time":        func(s *wirepb.ProbeSpec) { s.Concurrency = 257 },
		"asks 1000000 in all":         func(s *wirepb.ProbeSpec) { s.Count = 1 << 60 },
		"asks 5000 a second":          func(s *wirepb.ProbeSpec) { s.Rate = 5001 },
		"200 a second at most by tcp": func(s *wirepb.ProbeSpec) { s.Kind, s.Target, s.Rate = "tcp", "127.0.0.1:1", 201 },
		"waits for 1m0s":              func(s *wirepb.ProbeSpec) { s.TimeoutMillis = 60_001 },
		"asks for 10m0s":              func(s *wirepb.ProbeSpec) { s.TimeMillis = 1 << 63 },
		"-c 0":                        func(s *wirepb.ProbeSpec) { s.Concurrency = 0 },
		"want http://HOST":            func(s *wirepb.ProbeSpec) { s.Target = "file:///etc/passwd" },
		"none of http":                func(s *wirepb.ProbeSpec) { s.Kind = "smtp" },
	} {
		o := NewOrders(Config{}, Deps{})
		o.Want(&wirepb.ProbeOrders{Orders: []*wirepb.ProbeOrder{ordered(1, "http://127.0.0.1:1/", change)}})
		if p := ending(t, o, 1); p.Result != nil || !strings.Contains(p.Message, want) {
			t.Errorf("%v, want %q", p, want)
		}
	}
	o := NewOrders(Config{Off: true}, Deps{})
	o.Want(&wirepb.ProbeOrders{Orders: []*wirepb.ProbeOrder{ordered(1, "http://127.0.0.1:1/"), nil}})
	if p := ending(t, o, 1); !strings.Contains(p.Message, "agent.yaml") {
		t.Errorf("where probes are off: %v", p)
	}
	var hold atomic.Bool
	hold.Store(true)
	url, _, underway := service(t, &hold)
	o = NewOrders(Config{}, Deps{})
	defer o.HangUp()
	list := &wirepb.ProbeOrders{}
	for id := range uint64(model.MaxProbeRuns + 1) {
		list.Orders = append(list.Orders, ordered(id+1, url))
	}
	o.Want(list)
	if p := ending(t, o, model.MaxProbeRuns+1); !strings.Contains(p.Message, "which is the limit") {
		t.Errorf("one too many: %v", p)
	}
	o.HangUp()
	idle(t, "after the session", underway)
}

// A probe ends when it is not ordered any more, and with the session, also while
// nobody reads what it says and nobody answers.
func TestOrdersEnd(t *testing.T) {
	var hold atomic.Bool
	hold.Store(true)
	for what, end := range map[string]func(*Orders){"taken back": func(o *Orders) { o.Want(&wirepb.ProbeOrders{}) }, "hung up": (*Orders).HangUp} {
		url, asked, underway := service(t, &hold)
		o := NewOrders(Config{}, Deps{})
		o.Want(&wirepb.ProbeOrders{Orders: []*wirepb.ProbeOrder{ordered(1, url)}})
		for asked.Load() < 2 {
			time.Sleep(5 * time.Millisecond)
		}
		end(o)
		idle(t, what, underway)
		if n := asked.Load(); n != 2 {
			t.Errorf("%s: %d were asked", what, n)
		}
	}
}

// Whoever asks by UDP and is told to stop waits no longer.
func TestDNSIsCutOff(t *testing.T) {
	o := NewOrders(Config{}, Deps{})
	server := listenUDP(t)
	o.Want(&wirepb.ProbeOrders{Orders: []*wirepb.ProbeOrder{ordered(1, "", func(s *wirepb.ProbeSpec) {
		s.Kind, s.Target, s.TimeoutMillis, s.TimeMillis = "dns", "example.org@"+server, 60_000, 300
	})}})
	if p := ending(t, o, 1); p.Result.GetAsked() != 0 || p.Result.GetNote() != "the time is up" {
		t.Errorf("it ends with %v", p)
	}
}
