package policy_test

import (
	"net/netip"
	"slices"
	"testing"

	. "weft/policy"
	"weft/policy/policytest"
)

// The account adds up to what the reference says of each flow.
func TestReplayEqualsReference(t *testing.T) {
	denies := uint64(0)
	for seed := range uint64(100) {
		g := policytest.New(seed)
		w := g.World()
		set, err := Compile(w)
		if err != nil {
			t.Fatal(err)
		}
		var want Replayed
		var flows []*Flow
		finals := map[RuleID]uint64{}
		for range 200 {
			f := &Flow{Packet: g.Packet(w.Identities.All()), Count: uint64(g.IntN(3)), Denied: g.IntN(4) == 0, Judge: Judges(g.IntN(3))}
			flows = append(flows, f)
			n := max(f.Count, 1)
			want.Flows += n
			j := w.EvaluateBoth(&f.Packet)
			sent := f.Judge == JudgeReceiver || j.Egress.Allowed()
			received := f.Judge == JudgeSender || j.Ingress.Allowed()
			if f.Judge != JudgeReceiver {
				finals[j.Egress.ID] += n
			}
			if f.Judge != JudgeSender && sent {
				finals[j.Ingress.ID] += n
			}
			switch allowed := sent && received; {
			case allowed && f.Denied:
				want.NewAllowed += n
				want.Allowed += n
			case allowed:
				want.Allowed += n
			default:
				want.Denied += n
				if !f.Denied {
					want.NewDenied += n
				}
			}
		}
		got := Replay(set, slices.Values(flows))
		if got.Flows != want.Flows || got.Allowed != want.Allowed || got.Denied != want.Denied || got.NewDenied != want.NewDenied || got.NewAllowed != want.NewAllowed {
			t.Fatalf("seed %d: got %+v, want %+v", seed, got, want)
		}
		delete(finals, 0)
		for id, n := range finals {
			if got.Rules[id] != n {
				t.Fatalf("seed %d: rule %s counts %d, want %d", seed, id, got.Rules[id], n)
			}
		}
		sum := uint64(0)
		for _, d := range got.Denies {
			sum += d.Count
			if len(d.Samples) == 0 || len(d.Samples) > MaxSamples || w.Evaluate(d.Direction, &d.Samples[0]) != d.Verdict {
				t.Fatalf("seed %d: %+v", seed, d)
			}
		}
		if sum != got.NewDenied {
			t.Fatalf("seed %d: denies sum up to %d of %d", seed, sum, got.NewDenied)
		}
		denies += sum
	}
	if denies < 1000 {
		t.Errorf("only %d new denies", denies)
	}
}

func replayer(t testing.TB) (*Replayer, []Flow) {
	w := manyRules(10_000)
	set, err := Compile(w)
	if err != nil {
		t.Fatal(err)
	}
	g := policytest.New(5)
	flows := make([]Flow, 4096)
	for i := range flows {
		n := g.IntN(10_000)
		addr := netip.AddrFrom4([4]byte{10, byte(n / 256), byte(n), byte(i)})
		flows[i].Packet = Packet{Source: End{Addr: addr}, Destination: End{Addr: netip.MustParseAddr("10.0.0.1"), Identity: 1}, Protocol: 6, DestinationPort: uint16(n + 1)}
	}
	return NewReplayer(set), flows
}

func TestReplayAllocatesNothingPerFlow(t *testing.T) {
	r, flows := replayer(t)
	if n := testing.AllocsPerRun(5, func() {
		for i := range flows {
			r.Add(&flows[i])
		}
	}); n != 0 {
		t.Errorf("%v allocations in %d flows", n, len(flows))
	}
	if got := r.Result(); got.Denied != 0 || got.Allowed != got.Flows {
		t.Errorf("got %+v", got)
	}
}

// Flows a second over a policy of 10,000 rules.
func BenchmarkReplay(b *testing.B) {
	r, flows := replayer(b)
	for i := range flows {
		r.Add(&flows[i])
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		r.Add(&flows[i%len(flows)])
		i++
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "flows/s")
}
