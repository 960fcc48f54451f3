// Package probe asks a service many times and says how long its answers took: by
// HTTP, by a TCP connection, by a DNS question or by an ICMP echo.
//
// With a rate, each question has a time at which it is due, and a latency is
// reckoned from then: a service that stands still for a second makes all that was
// due in that second late, and not one question alone (coordinated omission).
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"weft/model"
)

// The limits of a probe that somebody starts on a machine of theirs. An agent's are
// less, see Budget.
const (
	MaxConcurrency = 10_000
	MaxCount       = 100_000_000
	MaxRate        = 1_000_000
	MaxTime        = 24 * time.Hour
	maxKinds       = 64       // of errors
	maxAnswer      = 64 << 20 // what is read of one answer
)

// Spec says what to ask, and how often.
type Spec struct {
	Kind model.ProbeKind
	// Target is as model.CheckProbeTarget has it.
	Target      string
	Concurrency int     // questions at one time
	Count       int     // questions in all; 0 as many as the time has room for
	Rate        float64 // questions a second; 0 as fast as answers come
	Timeout     time.Duration
	Time        time.Duration // bounds the whole
	// Begin bounds in which time questions are begun, beyond the first of each who
	// asks; 0 is Time.
	Begin time.Duration
	// Expect are the statuses of http that are good answers, as model.ParseStatuses
	// reads them.
	Expect string
	// Budget is shared with other probes of this machine; nil has no limits.
	Budget *Budget
}

// Check says what is wrong with a Spec.
func (s *Spec) Check() error {
	switch {
	case s.Concurrency < 1 || s.Concurrency > MaxConcurrency:
		return fmt.Errorf("-c %d: take one from 1 to %d", s.Concurrency, MaxConcurrency)
	case s.Count < 0 || s.Count > MaxCount:
		return fmt.Errorf("-n %d: take one from 1 to %d", s.Count, MaxCount)
	case s.Rate < 0 || s.Rate > MaxRate || s.Rate != s.Rate:
		return fmt.Errorf("--rate %g: take one up to %d a second, or 0 for as fast as answers come", s.Rate, MaxRate)
	case s.Timeout <= 0 || s.Timeout > time.Hour:
		return fmt.Errorf("--timeout %s: take one up to an hour", s.Timeout)
	case s.Time <= 0 || s.Time > MaxTime:
		return fmt.Errorf("--time %s: take one up to %s", s.Time, MaxTime)
	}
	if _, err := model.ParseStatuses(s.Expect); err != nil {
		return fmt.Errorf("--expect %w", err)
	}
	return model.CheckProbeTarget(s.Kind, s.Target)
}

// asker asks once; each worker has its own.
type asker interface {
	// ask returns how many bytes the answer had. A wrong answer is an error whose
	// text is its kind, as errKind.
	ask(ctx context.Context) (bytes int64, err error)
	close()
}

// errKind is an answer that came and is no good.
type errKind string

func (e errKind) Error() string { return string(e) }

// Run asks until all is asked, the time is up or ctx ends; then it says what came
// of it so far. progress, unless nil, is told now and then what has come until then.
func Run(parent context.Context, s Spec, progress func(*model.ProbeResult)) (*model.ProbeResult, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(parent, s.Time, errTime)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	make, err := newAsker(ctx, &s)
	if err != nil {
		return nil, err
	}
	p := newProbe(&s, stop)
	var workers sync.WaitGroup
	for i := range min(s.Concurrency, int(p.count)) {
		a, err := make()
		if err != nil {
			stop(err)
			workers.Wait()
			return nil, err
		}
		workers.Go(func() {
			defer a.close()
			p.work(ctx, a, p.accounts[i%len(p.accounts)])
		})
	}
	ended := waited(&workers)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			out := p.sum()
			var limit errLimit
			if cause := context.Cause(ctx); errors.As(cause, &limit) && (limit != errTime || s.Count > 0) {
				out.Note = limit.Error()
			}
			return out, nil
		case <-tick.C:
			if progress != nil {
				progress(p.sum())
			}
		}
	}
}

// errLimit is why a probe ends before all is asked.
type errLimit string

func (e errLimit) Error() string { return string(e) }

const errTime = errLimit("the time is up")

func waited(g *sync.WaitGroup) <-chan struct{} {
	c := make(chan struct{})
	go func() { g.Wait(); close(c) }()
	return c
}

// kindOf sorts errors into a few kinds that a person can act on.
func kindOf(err error) string {
	var kind errKind
	var dns *net.DNSError
	var network net.Error
	switch {
	case errors.As(err, &kind):
		return string(kind)
	case errors.As(err, &dns) && !dns.IsTimeout:
		return "name not found"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EMFILE):
		return "out of ports or descriptors here"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed early"
	case strings.Contains(err.Error(), "tls:"), strings.Contains(err.Error(), "x509:"):
		return "TLS"
	}
	return "other"
}
