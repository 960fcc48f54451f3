package api

import (
	"math"
	"strings"
	"testing"
)

// What no host does is refused before one is asked, with every fault at once.
func TestProbesAreChecked(t *testing.T) {
	good := probeInput{Kind: "http", Target: "http://x/", Concurrency: 10, Count: 1000, Timeout: "10s", Time: "10m", Expect: "2xx"}
	if s, err := good.spec(); err != nil || s.TimeMillis != 600_000 || s.TimeoutMillis != 10_000 || s.Expect != "2xx" || s.Count != 1000 {
		t.Errorf("%v, %v", s, err)
	}
	for want, change := range map[string]func(*probeInput){
		"query.target":            func(in *probeInput) { in.Target = "x" },
		"query.timeout":           func(in *probeInput) { in.Timeout = "61s" },
		"query.time: ":            func(in *probeInput) { in.Time = "11m" },
		"query.expect":            func(in *probeInput) { in.Expect = "x" },
		"tcp has no status":       func(in *probeInput) { in.Kind, in.Target = "tcp", "x:1" },
		"5000 a second at most":   func(in *probeInput) { in.Rate = 5001 },
		"200 a second at most by": func(in *probeInput) { in.Kind, in.Target, in.Expect, in.Rate = "tcp", "x:1", "", 201 },
		"NaN":                     func(in *probeInput) { in.Rate = math.NaN() },
		"query.rate":              func(in *probeInput) { in.Target, in.Rate = "", -1 },
	} {
		in := good
		change(&in)
		if _, err := in.spec(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", in, err, want)
		}
	}
}
