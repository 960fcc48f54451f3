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
	"sync/atomic"
	"syscall"
	"time"
)

// The limits of a probe.
const (
	MaxConcurrency = 10_000
	MaxCount       = 100_000_000
	MaxRate        = 1_000_000
	MaxTime        = 24 * time.Hour
	maxKinds       = 64 // of errors
)

// Kinds of probes.
const (
	HTTP = "http"
	TCP  = "tcp"
	DNS  = "dns"
	ICMP = "icmp"
)

// Spec says what to ask, and how often.
type Spec struct {
	Kind string
	// Target is a URL for http, HOST:PORT for tcp, NAME@SERVER[:PORT] for dns, HOST
	// for icmp.
	Target      string
	Concurrency int     // questions at one time
	Count       int     // questions in all
	Rate        float64 // questions a second; 0 as fast as answers come
	Timeout     time.Duration
	Time        time.Duration // bounds the whole
}

// Check says what is wrong with a Spec.
func (s *Spec) Check() error {
	switch {
	case s.Concurrency < 1 || s.Concurrency > MaxConcurrency:
		return fmt.Errorf("-c %d: take one from 1 to %d", s.Concurrency, MaxConcurrency)
	case s.Count < 1 || s.Count > MaxCount:
		return fmt.Errorf("-n %d: take one from 1 to %d", s.Count, MaxCount)
	case s.Rate < 0 || s.Rate > MaxRate || s.Rate != s.Rate:
		return fmt.Errorf("--rate %g: take one up to %d a second, or 0 for as fast as answers come", s.Rate, MaxRate)
	case s.Timeout <= 0 || s.Timeout > time.Hour:
		return fmt.Errorf("--timeout %s: take one up to an hour", s.Timeout)
	case s.Time <= 0 || s.Time > MaxTime:
		return fmt.Errorf("--time %s: take one up to %s", s.Time, MaxTime)
	}
	_, err := newAsker(s)
	return err
}

// Result is what came of a probe. Latencies are of questions that were answered.
type Result struct {
	Kind    string  `json:"kind"`
	Target  string  `json:"target"`
	Seconds float64 `json:"seconds"`
	Asked   uint64  `json:"asked"`
	OK      uint64  `json:"ok"`
	// Rate is answers a second.
	Rate    float64 `json:"rate"`
	Bytes   uint64  `json:"bytes"`
	Latency Latency `json:"latency"`
	// Errors counts questions without a good answer, by kind.
	Errors map[string]uint64 `json:"errors"`
}

// Latency is in seconds.
type Latency struct {
	Min  float64 `json:"min"`
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
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

// worker is the account of one of those who ask.
type worker struct {
	latencies histogram
	asked     uint64
	bytes     uint64
	errors    map[string]uint64
}

// Run asks until all is asked, the time is up or ctx ends; then it says what came
// of it so far. progress, unless nil, is called now and then with how many questions
// are over.
func Run(parent context.Context, s Spec, progress func(done uint64)) (*Result, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(parent, s.Time)
	defer cancel()
	make, err := newAsker(&s)
	if err != nil {
		return nil, err
	}
	var next, done atomic.Uint64
	began := time.Now()
	var workers sync.WaitGroup
	all := []*worker{}
	for range min(s.Concurrency, s.Count) {
		a, err := make()
		if err != nil {
			cancel()
			workers.Wait()
			return nil, err
		}
		w := &worker{errors: map[string]uint64{}}
		all = append(all, w)
		workers.Go(func() {
			defer a.close()
			w.run(ctx, &s, a, began, &next, &done)
		})
	}
	ended := waited(&workers)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case <-ended:
			over = true
		case <-tick.C:
			if progress != nil {
				progress(done.Load())
			}
		}
	}
	return sum(&s, all, time.Since(began)), nil
}

func waited(g *sync.WaitGroup) <-chan struct{} {
	c := make(chan struct{})
	go func() { g.Wait(); close(c) }()
	return c
}

func (w *worker) run(ctx context.Context, s *Spec, a asker, began time.Time, next, done *atomic.Uint64) {
	timer := time.NewTimer(0)
	<-timer.C
	for ctx.Err() == nil {
		i := next.Add(1) - 1
		if i >= uint64(s.Count) {
			return
		}
		due := time.Now()
		if s.Rate > 0 {
			due = began.Add(time.Duration(float64(i) / s.Rate * float64(time.Second)))
			if wait := time.Until(due); wait > 0 {
				timer.Reset(wait)
				select {
				case <-ctx.Done():
					return
				case <-timer.C:
				}
			}
		}
		one, cancel := context.WithTimeout(ctx, s.Timeout)
		n, err := a.ask(one)
		cancel()
		if ctx.Err() != nil && err != nil {
			return // cut off, and no fault of who was asked
		}
		w.asked++
		if err != nil {
			kind := kindOf(err)
			if _, known := w.errors[kind]; !known && len(w.errors) >= maxKinds {
				kind = "other"
			}
			w.errors[kind]++
		} else {
			w.latencies.add(time.Since(due))
			w.bytes += uint64(n)
		}
		done.Add(1)
	}
}

func sum(s *Spec, all []*worker, took time.Duration) *Result {
	r := &Result{Kind: s.Kind, Target: s.Target, Seconds: took.Seconds(), Errors: map[string]uint64{}}
	var h histogram
	for _, w := range all {
		h.merge(&w.latencies)
		r.Asked += w.asked
		r.Bytes += w.bytes
		for kind, n := range w.errors {
			r.Errors[kind] += n
		}
	}
	if r.OK = h.n; h.n > 0 {
		q := func(v float64) float64 { return h.quantile(v).Seconds() }
		r.Latency = Latency{Min: h.min.Seconds(), Mean: h.sum / float64(h.n) / 1e9, P50: q(0.5), P90: q(0.9), P99: q(0.99), P999: q(0.999), Max: h.max.Seconds()}
		r.Rate = float64(h.n) / took.Seconds()
	}
	return r
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
