package reach

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"
)

// order is what a worker is told, a JSON object a line.
type order struct {
	ID      int           `json:"id"`
	Do      string        `json:"do"` // listen, close or call
	Service Service       `json:"service"`
	Target  string        `json:"target,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"`
	// Silent: the listener is a program of its own, an open connection is enough.
	Silent bool `json:"silent,omitempty"`
}

// answer is what it reports.
type answer struct {
	ID      int           `json:"id"`
	Verdict Verdict       `json:"verdict,omitempty"`
	Detail  string        `json:"detail,omitempty"`
	Took    time.Duration `json:"took,omitempty"`
	// Busy: somebody else listens there.
	Busy  bool   `json:"busy,omitempty"`
	Error string `json:"error,omitempty"`
}

// worker is a program at one place of a lab.
type worker struct {
	mu        sync.Mutex
	listening map[Service]io.Closer
}

// Work obeys orders from r and reports to w until r ends. It is the whole life
// of a worker's process.
func Work(ctx context.Context, r io.Reader, w io.Writer) error {
	work := worker{listening: map[Service]io.Closer{}}
	defer work.close()
	out := json.NewEncoder(w)
	var writing sync.Mutex
	var calls sync.WaitGroup
	in := bufio.NewScanner(r)
	for in.Scan() && ctx.Err() == nil {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			return fmt.Errorf("read an order: %w", err)
		}
		calls.Go(func() {
			a := work.obey(ctx, o)
			a.ID = o.ID
			writing.Lock()
			defer writing.Unlock()
			out.Encode(a) //nolint:errcheck // whoever asked is gone
		})
	}
	calls.Wait()
	return in.Err()
}

func (w *worker) obey(ctx context.Context, o order) answer {
	switch o.Do {
	case "listen":
		l, err := listen(o.Service)
		if errors.Is(err, syscall.EADDRINUSE) {
			return answer{Busy: true}
		}
		if err != nil {
			return answer{Error: err.Error()}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.listening[o.Service] = l
		return answer{}
	case "close":
		w.close()
		return answer{}
	case "call":
		ctx, cancel := context.WithTimeout(ctx, o.Timeout)
		defer cancel()
		began := time.Now()
		v, detail := call(ctx, o)
		return answer{Verdict: v, Detail: detail, Took: time.Since(began)}
	}
	return answer{Error: fmt.Sprintf("no order %q", o.Do)}
}

func (w *worker) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for s, l := range w.listening {
		l.Close()
		delete(w.listening, s)
	}
}
