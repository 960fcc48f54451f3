package probe

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"weft/model"
)

func spec(kind model.ProbeKind, target string) Spec {
	return Spec{Kind: kind, Target: target, Concurrency: 8, Count: 400, Timeout: 5 * time.Second, Time: time.Minute}
}

func run(t *testing.T, s Spec) *model.ProbeResult {
	t.Helper()
	r, err := Run(t.Context(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Every question is accounted for: answered, or an error of its kind.
func TestHTTP(t *testing.T) {
	var n atomic.Uint64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1)%4 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("hello"))
	}))
	defer server.Close()
	r := run(t, spec(model.ProbeHTTP, server.URL))
	if r.Asked != 400 || r.OK != 300 || r.Errors["status 503"] != 100 || r.Bytes != 1500 || n.Load() != 400 {
		t.Errorf("the result is %+v", r)
	}
	if l := r.Latency; l.Min <= 0 || l.P50 < l.Min || l.P90 < l.P50 || l.P99 < l.P90 || l.P999 < l.P99 || l.Max < l.P999 || l.Mean < l.Min || l.Mean > l.Max {
		t.Errorf("latencies are %+v", l)
	}
}

func TestTCPAndRefusals(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	if r := run(t, spec(model.ProbeTCP, l.Addr().String())); r.OK != 400 {
		t.Errorf("the result is %+v", r)
	}
	l.Close()
	if r := run(t, spec(model.ProbeTCP, l.Addr().String())); r.OK != 0 || r.Errors["connection refused"] != 400 || r.Latency.Max != 0 {
		t.Errorf("of a closed port: %+v", r)
	}
}

func TestDNS(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		b := make([]byte, 1500)
		for i := 0; ; i++ {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil {
				continue
			}
			m.Response = true
			if strings.HasPrefix(m.Questions[0].Name.String(), "no.") {
				m.RCode = dnsmessage.RCodeNameError
			}
			out, _ := m.Pack()
			server.WriteTo([]byte("nonsense"), from)
			server.WriteTo(out, from)
		}
	}()
	if r := run(t, spec(model.ProbeDNS, "example.org@"+server.LocalAddr().String())); r.OK != 400 {
		t.Errorf("the result is %+v", r)
	}
	if r := run(t, spec(model.ProbeDNS, "no.example.org@"+server.LocalAddr().String())); r.Errors["NameError"] != 400 {
		t.Errorf("of a name that is none: %+v", r)
	}
}

// A service that stands still makes all that was due meanwhile late.
func TestOmissionIsCounted(t *testing.T) {
	var stood atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if stood.CompareAndSwap(false, true) {
			time.Sleep(400 * time.Millisecond)
		}
	}))
	defer server.Close()
	s := spec(model.ProbeHTTP, server.URL)
	s.Concurrency, s.Count, s.Rate = 1, 100, 200
	r := run(t, s)
	if r.OK != 100 || r.Latency.P50 < 0.1 {
		t.Errorf("half of the questions were due while it stood still: %+v", r)
	}
}

// It ends with its time, and with whoever started it.
func TestItEnds(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer server.Close()
	s := spec(model.ProbeHTTP, server.URL)
	s.Timeout, s.Count = 10*time.Millisecond, 16
	if r := run(t, s); r.Errors["timeout"] != 16 {
		t.Errorf("of a server that never answers: %+v", r)
	}
	s.Timeout, s.Count, s.Time = time.Minute, 1000, 50*time.Millisecond
	if r := run(t, s); r.Asked != 0 {
		t.Errorf("cut off by its time: %+v", r)
	}
	// A question that is due the moment the time is up is none that failed.
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	s = spec(model.ProbeTCP, dead.Addr().String())
	s.Count, s.Rate, s.Time = 0, 20, 200*time.Millisecond
	if r := run(t, s); r.Errors["timeout"] != 0 || r.Errors["connection refused"] != r.Asked || r.Note != "" {
		t.Errorf("of a closed port for a while: %+v", r)
	}
	s = spec(model.ProbeHTTP, server.URL)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := Run(ctx, s, nil); err != nil || r.Asked != 0 {
		t.Errorf("ended before it began: %+v, %v", r, err)
	}
}

func TestSpecsAreChecked(t *testing.T) {
	for _, c := range []struct {
		change func(*Spec)
		want   string
	}{
		{func(s *Spec) { s.Concurrency = 0 }, "-c"}, {func(s *Spec) { s.Count = 1 << 40 }, "-n"}, {func(s *Spec) { s.Rate = -1 }, "--rate"}, {func(s *Spec) { s.Timeout = 0 }, "--timeout"}, {func(s *Spec) { s.Time = 0 }, "--time"},
		{func(s *Spec) { s.Expect = "2x" }, "--expect"}, {func(s *Spec) { s.Target = "ftp://x" }, "http://HOST"}, {func(s *Spec) { s.Kind, s.Target = model.ProbeTCP, "x" }, "HOST:PORT"}, {func(s *Spec) { s.Kind, s.Target = model.ProbeDNS, "x" }, "NAME@SERVER"}, {func(s *Spec) { s.Kind = "smtp" }, "http, tcp, dns, icmp"},
	} {
		s := spec(model.ProbeHTTP, "http://127.0.0.1:1/")
		c.change(&s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", s, err, c.want)
		}
	}
}

// Percentiles are those of the sorted list, within 1 %.
func TestHistogram(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var list []time.Duration
	var a, b histogram
	for i := range 20_000 {
		d := time.Duration(r.ExpFloat64() * 3e6)
		list = append(list, d)
		[]*histogram{&a, &b}[i%2].add(d)
	}
	a.merge(&b)
	slices.Sort(list)
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		got, want := a.quantile(q), list[int(q*float64(len(list))+0.999999)-1]
		if got < want || float64(got) > float64(want)*1.01+1 {
			t.Errorf("the quantile %g is %s, want %s", q, got, want)
		}
	}
	if a.min != list[0] || a.max != list[len(list)-1] {
		t.Errorf("min %s, max %s", a.min, a.max)
	}
	for d := time.Duration(0); d >= 0 && d < 1<<62; d = d*3/2 + 1 {
		if i := bucket(d); upper(i) < d || i > 0 && upper(i-1) >= d {
			t.Fatalf("%d is in bucket %d, which ends at %d", d, i, upper(i))
		}
	}
	if n := testing.AllocsPerRun(100, func() { a.add(5) }); n != 0 {
		t.Errorf("counting allocates %g times", n)
	}
}
