package probe

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"weft/model"
)

// probe is one that runs.
type probe struct {
	*Spec
	began    time.Time
	count    uint64
	next     atomic.Uint64
	bytes    atomic.Uint64 // of all answers
	stop     context.CancelCauseFunc
	accounts []*account
}

// account is what came of questions until now. A few are shared by all workers: each
// has 58 KiB.
type account struct {
	mu        sync.Mutex
	latencies histogram
	asked     uint64
	bytes     uint64
	errors    map[string]uint64
}

func newProbe(s *Spec, stop context.CancelCauseFunc) *probe {
	p := &probe{Spec: s, began: time.Now(), stop: stop}
	switch {
	case s.Count > 0:
		p.count = uint64(s.Count)
	case s.Budget != nil:
		p.count = model.MaxProbeCount
	default:
		p.count = MaxCount
	}
	for range min(s.Concurrency, int(p.count), runtime.GOMAXPROCS(0)) {
		p.accounts = append(p.accounts, &account{errors: map[string]uint64{}})
	}
	return p
}

// work asks again and again.
func (p *probe) work(ctx context.Context, a asker, to *account) {
	timer := time.NewTimer(0)
	<-timer.C
	for first := true; ctx.Err() == nil; first = false {
		if p.Begin > 0 && !first && time.Since(p.began) > p.Begin {
			return
		}
		i := p.next.Add(1) - 1
		if i >= p.count {
			return
		}
		var due time.Time
		if p.Rate > 0 {
			due = p.began.Add(time.Duration(float64(i) / p.Rate * float64(time.Second)))
			if wait := time.Until(due); wait > 0 {
				timer.Reset(wait)
				select {
				case <-ctx.Done():
					return
				case <-timer.C:
				}
			}
		}
		held, err := p.Budget.take(ctx, p.Kind)
		if err != nil {
			return
		}
		if p.Rate > 0 {
			due = due.Add(held) // that is no fault of who is asked
		} else {
			due = time.Now()
		}
		one, cancel := context.WithTimeout(ctx, p.Timeout)
		n, err := a.ask(one)
		cancel()
		if err != nil && over(ctx) {
			return // cut off, and no fault of who was asked
		}
		to.count(time.Since(due), n, err)
		if total := p.bytes.Add(uint64(max(n, 0))); p.Budget != nil && total > model.MaxProbeBytes {
			p.stop(errLimit(fmt.Sprintf("the answers had %d MiB, which is what an agent reads for one probe", model.MaxProbeBytes>>20)))
		}
	}
}

// over says whether a context has ended, or is to have: what is told its deadline may
// know it before the context's own timer has fired.
func over(ctx context.Context) bool {
	deadline, has := ctx.Deadline()
	return ctx.Err() != nil || has && !time.Now().Before(deadline)
}

func (a *account) count(took time.Duration, bytes int64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	if err == nil {
		a.latencies.add(took)
		a.bytes += uint64(bytes)
		return
	}
	kind := kindOf(err)
	if _, known := a.errors[kind]; !known && len(a.errors) >= maxKinds {
		kind = "other"
	}
	a.errors[kind]++
}

// sum is what has come until now.
func (p *probe) sum() *model.ProbeResult {
	took := time.Since(p.began)
	out := &model.ProbeResult{Kind: p.Kind, Target: p.Target, Seconds: took.Seconds(), Errors: map[string]uint64{}}
	var h histogram
	for _, a := range p.accounts {
		a.mu.Lock()
		h.merge(&a.latencies)
		out.Asked += a.asked
		out.Bytes += a.bytes
		for kind, n := range a.errors {
			out.Errors[kind] += n
		}
		a.mu.Unlock()
	}
	if out.OK = h.n; h.n > 0 {
		q := func(v float64) float64 { return h.quantile(v).Seconds() }
		out.Latency = model.ProbeLatency{Min: h.min.Seconds(), Mean: h.sum / float64(h.n) / 1e9, P50: q(0.5), P90: q(0.9), P99: q(0.99), P999: q(0.999), Max: h.max.Seconds()}
		out.Rate = float64(h.n) / took.Seconds()
	}
	return out
}
