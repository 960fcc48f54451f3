package probewire

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"weft/model"
	"weft/wire/wirepb"
)

func full() *model.ProbeResult {
	return &model.ProbeResult{Kind: model.ProbeHTTP, Target: "http://x/", Seconds: 2, Asked: 12, OK: 10, Rate: 5, Bytes: 3, Errors: map[string]uint64{"timeout": 1, "status 503": 1}, Note: "the time is up",
		Latency: model.ProbeLatency{Min: 1, Mean: 2, P50: 3, P90: 4, P99: 5, P999: 6, Max: 7}}
}

// Nothing is left behind on the way.
func TestRoundTrip(t *testing.T) {
	raw, err := proto.Marshal(Encode(full()))
	if err != nil {
		t.Fatal(err)
	}
	var m wirepb.ProbeResult
	if err := proto.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full(), Decode(model.ProbeHTTP, "http://x/", &m)); diff != "" {
		t.Error(diff)
	}
	if r := Decode(model.ProbeHTTP, "", nil); r != nil {
		t.Errorf("of nothing comes %+v", r)
	}
}

func TestNonsenseIsLeftOut(t *testing.T) {
	r := Decode(model.ProbeTCP, "x:1", &wirepb.ProbeResult{Seconds: math.NaN(), Asked: 1, Ok: 5, P50: math.Inf(1), Min: -1, Errors: []*wirepb.ProbeError{{Kind: "a\x1b[2J", Count: 2}, nil}, Note: strings.Repeat("x", 1000)})
	if r.Seconds != 0 || r.OK != 1 || r.Latency != (model.ProbeLatency{}) || r.Errors["a [2J"] != 2 || len(r.Note) != maxText {
		t.Errorf("it is read as %+v", r)
	}
}

// Whatever an agent sends can be kept and shown.
func FuzzDecode(f *testing.F) {
	raw, err := proto.Marshal(Encode(full()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var m wirepb.ProbeResult
		if proto.Unmarshal(raw, &m) != nil {
			return
		}
		r := Decode(model.ProbeDNS, "a@b", &m)
		if _, err := json.Marshal(r); err != nil {
			t.Error(err)
		}
		if len(r.Errors) > maxErrors || r.OK > r.Asked {
			t.Errorf("%+v", r)
		}
		if diff := cmp.Diff(r, Decode(model.ProbeDNS, "a@b", Encode(r))); diff != "" {
			t.Errorf("it is another the second time: %s", diff)
		}
	})
}
