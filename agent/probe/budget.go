package probe

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"weft/model"
)

// Budget is how much an agent asks, whoever wants more: so many questions a second of
// all its probes together, and of TCP fewer, for each of these keeps a port busy for a
// minute. It counts them.
type Budget struct {
	all, connects *rate.Limiter
	asked         atomic.Uint64
}

// NewBudget returns a whole one.
func NewBudget() *Budget {
	return &Budget{all: rate.NewLimiter(model.MaxProbeRate, model.MaxProbeRate/50), connects: rate.NewLimiter(model.MaxProbeConnects, model.MaxProbeConnects/10)}
}

// take waits until one more may be asked, and says for how long.
func (b *Budget) take(ctx context.Context, kind model.ProbeKind) (held time.Duration, err error) {
	if b == nil {
		return 0, nil
	}
	began := time.Now()
	if kind == model.ProbeTCP {
		err = b.connects.Wait(ctx)
	}
	if err == nil {
		err = b.all.Wait(ctx)
	}
	if err == nil {
		b.asked.Add(1)
	}
	return time.Since(began), err
}

// Asked is how many questions there were.
func (b *Budget) Asked() uint64 { return b.asked.Load() }

// CheckAgent says what an agent does not do, whoever asks. It says so rather than do
// less: a result of something else would be taken for that of what was asked.
func (s *Spec) CheckAgent() error {
	most := float64(model.MaxProbeRate)
	if s.Kind == model.ProbeTCP {
		most = model.MaxProbeConnects
	}
	switch {
	case s.Concurrency > model.MaxProbeConcurrency:
		return fmt.Errorf("-c %d: an agent asks %d at one time at most; ask from more hosts", s.Concurrency, model.MaxProbeConcurrency)
	case s.Count > model.MaxProbeCount:
		return fmt.Errorf("-n %d: an agent asks %d in all at most", s.Count, model.MaxProbeCount)
	case s.Rate > most:
		return fmt.Errorf("--rate %g: an agent asks %g a second at most by %s", s.Rate, most, s.Kind)
	case s.Timeout > model.MaxProbeTimeout:
		return fmt.Errorf("--timeout %s: an agent waits for %s at most", s.Timeout, model.MaxProbeTimeout)
	case s.Time > model.MaxProbeTime:
		return fmt.Errorf("--time %s: an agent asks for %s at most", s.Time, model.MaxProbeTime)
	}
	return s.Check()
}
