package policy

import (
	"cmp"
	"iter"
	"slices"
)

// Flow is a recorded connection: its first packet, and how many there were.
type Flow struct {
	Packet Packet
	Count  uint64 // connections it stands for; 0 counts as 1
	Denied bool   // what became of it when it was recorded
	Judge  Judges
}

// Judges says which ends of a flow are asked.
type Judges uint8

// Both ends are asked unless the report of one does not tell what the other saw:
// a published port, a machine that masquerades for its containers.
const (
	JudgeBoth Judges = iota
	JudgeSender
	JudgeReceiver
)

// MaxSamples bounds the samples a replay keeps of each deciding rule.
const MaxSamples = 5

// Replayed is what a draft would have done with recorded flows. Counts are in
// connections.
type Replayed struct {
	Flows, Allowed, Denied uint64
	// NewDenied were let through when recorded, NewAllowed were not.
	NewDenied, NewAllowed uint64
	// Rules counts how often a rule matched, Log and Pass rules too, at either end.
	Rules map[RuleID]uint64
	// Denies are the new denies by what decides, the most frequent first.
	Denies []NewDeny
}

// NewDeny is a verdict that turns down what was let through.
type NewDeny struct {
	Direction Direction
	Verdict   Verdict
	Count     uint64
	Samples   []Packet // the first MaxSamples
}

type denyKey struct {
	direction Direction
	verdict   Verdict
}

// Replayer judges recorded flows one by one, without allocation per flow once a
// rule has been seen.
type Replayer struct {
	engine *Engine
	out    Replayed
	count  uint64
	hit    func(*Rule)
	hits   map[*Rule]*uint64
	denies map[denyKey]*NewDeny
}

// NewReplayer returns a replayer over a compiled draft.
func NewReplayer(s *Set) *Replayer {
	r := &Replayer{engine: NewEngine(s), hits: map[*Rule]*uint64{}, denies: map[denyKey]*NewDeny{}}
	r.hit = func(rule *Rule) {
		n := r.hits[rule]
		if n == nil {
			n = new(uint64)
			r.hits[rule] = n
		}
		*n += r.count
	}
	return r
}

// Add judges one flow. Where the sender turns it down, the receiver is not asked:
// it would never see it.
func (r *Replayer) Add(f *Flow) {
	r.count = max(f.Count, 1)
	r.out.Flows += r.count
	d := Egress
	var v Verdict
	if f.Judge != JudgeReceiver {
		v = r.engine.judge(Egress, &f.Packet, r.hit)
	}
	if f.Judge == JudgeReceiver || f.Judge == JudgeBoth && v.Allowed() {
		d = Ingress
		v = r.engine.judge(Ingress, &f.Packet, r.hit)
	}
	if v.Allowed() {
		r.out.Allowed += r.count
		if f.Denied {
			r.out.NewAllowed += r.count
		}
		return
	}
	r.out.Denied += r.count
	if f.Denied {
		return
	}
	r.out.NewDenied += r.count
	key := denyKey{d, v}
	n := r.denies[key]
	if n == nil {
		n = &NewDeny{Direction: d, Verdict: v}
		r.denies[key] = n
	}
	n.Count += r.count
	if len(n.Samples) < MaxSamples {
		n.Samples = append(n.Samples, f.Packet)
	}
}

// Result returns the account so far.
func (r *Replayer) Result() Replayed {
	out := r.out
	out.Rules = map[RuleID]uint64{}
	for rule, n := range r.hits {
		out.Rules[rule.ID] += *n
	}
	for _, d := range r.denies {
		c := *d
		c.Samples = slices.Clone(d.Samples)
		out.Denies = append(out.Denies, c)
	}
	slices.SortFunc(out.Denies, func(a, b NewDeny) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Verdict.ID, b.Verdict.ID),
			cmp.Compare(a.Verdict.Logged, b.Verdict.Logged), cmp.Compare(a.Verdict.Mode, b.Verdict.Mode), cmp.Compare(string(a.Verdict.Action), string(b.Verdict.Action)))
	})
	return out
}

// Replay judges recorded flows by a draft: a world with Through set to
// model.StageDraft, compiled.
func Replay(s *Set, flows iter.Seq[*Flow]) Replayed {
	r := NewReplayer(s)
	for f := range flows {
		r.Add(f)
	}
	return r.Result()
}
