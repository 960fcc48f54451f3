package model

import (
	"strings"
	"testing"
	"time"
)

func TestProbes(t *testing.T) {
	probe := func(spec string) (*Probe, error) {
		r, err := DecodeJSON([]byte(`{"apiVersion":"weft/v1","kind":"Probe","metadata":{"name":"p"},"spec":` + spec + `}`))
		p, _ := r.(*Probe)
		return p, err
	}
	for _, spec := range []string{`{"from":"*","kind":"http","target":"https://shop.example.org/"}`, `{"from":"app=web","kind":"http","target":"http://[2001:db8::1]:8080/x","expect":"2xx,301-308","interval":"5s","count":500,"concurrency":32,"timeout":"5s"}`,
		`{"from":"*","kind":"tcp","target":"db:5432"}`, `{"from":"*","kind":"dns","target":"example.org@10.0.0.53"}`, `{"from":"*","kind":"dns","target":".@[2001:db8::53]:5353"}`, `{"from":"*","kind":"icmp","target":"gateway"}`} {
		if _, err := probe(spec); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
	}
	for spec, want := range map[string]string{
		`{"kind":"tcp","target":"db:5432"}`:                                              "spec.from",
		`{"from":"*","kind":"htp","target":"http://x/"}`:                                 `did you mean "http"`,
		`{"from":"*","kind":"http","target":"shop"}`:                                     "http://HOST[:PORT]/PATH",
		`{"from":"*","kind":"http","target":"http://x:99999/"}`:                          "http://HOST[:PORT]/PATH",
		`{"from":"*","kind":"tcp","target":"db"}`:                                        "HOST:PORT",
		`{"from":"*","kind":"dns","target":"x"}`:                                         "NAME@SERVER",
		`{"from":"*","kind":"dns","target":"a..b@10.0.0.53"}`:                            "1 to 63 bytes",
		`{"from":"*","kind":"icmp","target":"10.0.0.0/8"}`:                               "want a HOST",
		`{"from":"*","kind":"tcp","target":"db:1","expect":"200"}`:                       "leave it out",
		`{"from":"*","kind":"http","target":"http://x/","expect":"2x"}`:                  "statuses from 100 to 599",
		`{"from":"*","kind":"http","target":"http://x/","interval":"500ms"}`:             "from 1s to 24h",
		`{"from":"*","kind":"http","target":"http://x/","interval":"1s","count":101}`:    "take 100 at most",
		`{"from":"*","kind":"http","target":"http://x/","count":1001}`:                   "1 to 1000",
		`{"from":"*","kind":"http","target":"http://x/","concurrency":33}`:               "1 to 32",
		`{"from":"*","kind":"http","target":"http://x/","interval":"2s","timeout":"3s"}`: "1ms to 2s",
		`{"from":"*","kind":"http","target":"http://x/","timeouts":"3s"}`:                `did you mean "timeout"`,
	} {
		if _, err := probe(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
	p, err := probe(`{"from":"*","kind":"icmp","target":"gateway","interval":"2s"}`)
	if err != nil || p.Spec.Every() != 2*time.Second || p.Spec.Patience() != 2*time.Second || p.Spec.Questions() != 10 || p.Spec.AtOnce() != 1 {
		t.Errorf("the defaults are %+v, %v", p, err)
	}
}

func TestStatuses(t *testing.T) {
	for text, want := range map[string][2]string{"": {"100 200 399", "400 503 99"}, "2xx, 304": {"200 299 304", "199 300 303 500"}, "404-410": {"404 410", "403 411"}} {
		s, err := ParseStatuses(text)
		if err != nil {
			t.Fatal(err)
		}
		for i, list := range want {
			for one := range strings.FieldsSeq(list) {
				r, ok := parseStatus(one)
				if one == "99" {
					r, ok = statusRange{first: 99}, true
				}
				if !ok || s.Has(r.first) != (i == 0) {
					t.Errorf("%q has %s: %t", text, one, s.Has(r.first))
				}
			}
		}
	}
	for _, text := range []string{",", "0xx", "6xx", "700", "300-200", "200-", "-200", "x", strings.Repeat("200,", 40) + "200"} {
		if s, err := ParseStatuses(text); err == nil {
			t.Errorf("%q is read as %v", text, s)
		}
	}
}

func FuzzProbeTarget(f *testing.F) {
	for _, s := range []string{"http://x/", "db:5432", "a.b@[::1]:53", "gateway"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, kind := range ProbeKinds {
			CheckProbeTarget(kind, text) //nolint:errcheck // it must not panic
		}
		if name, server, err := SplitProbeDNS(text); err == nil && (name == "" || server == "") {
			t.Errorf("%q is %q at %q", text, name, server)
		}
		if s, err := ParseStatuses(text); err == nil && len(s) == 0 {
			t.Errorf("%q has no statuses", text)
		}
	})
}
