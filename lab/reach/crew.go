package reach

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/lab"
)

// crew are the workers, one a place.
type crew map[*lab.Place]*hand

// hand is one worker's process.
type hand struct {
	place *lab.Place
	cmd   *lab.Cmd
	in    io.WriteCloser
	ended chan struct{}

	mu      sync.Mutex
	last    int
	waiting map[int]chan answer
}

// hire starts a worker at each place.
func hire(ctx context.Context, cfg Config, places []*lab.Place) (crew, error) {
	hands := make([]*hand, len(places))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for i, p := range places {
		group.Go(func() (err error) {
			hands[i], err = newHand(ctx, cfg, p)
			return err
		})
	}
	err := group.Wait()
	c := crew{}
	for i, h := range hands {
		if h != nil {
			c[places[i]] = h
		}
	}
	if err != nil {
		return nil, errors.Join(err, c.dismiss())
	}
	return c, nil
}

func newHand(ctx context.Context, cfg Config, p *lab.Place) (*hand, error) {
	// The worker ends when its input does; a context would kill it before.
	cmd := p.Command(context.WithoutCancel(ctx), cfg.Worker...)
	cmd.Env = append(os.Environ(), cfg.Env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a worker at %s: %w", p.Name, err)
	}
	h := &hand{place: p, cmd: cmd, in: in, ended: make(chan struct{}), waiting: map[int]chan answer{}}
	go h.listen(out)
	return h, nil
}

func (h *hand) listen(r io.Reader) {
	defer close(h.ended)
	in := bufio.NewScanner(r)
	for in.Scan() {
		var a answer
		if json.Unmarshal(in.Bytes(), &a) != nil {
			continue
		}
		h.mu.Lock()
		ch := h.waiting[a.ID]
		delete(h.waiting, a.ID)
		h.mu.Unlock()
		if ch != nil {
			ch <- a
		}
	}
}

// tell gives an order and waits for what comes of it.
func (h *hand) tell(ctx context.Context, o order) (answer, error) {
	ch := make(chan answer, 1)
	h.mu.Lock()
	h.last++
	o.ID = h.last
	h.waiting[o.ID] = ch
	text, err := json.Marshal(o)
	if err == nil {
		_, err = h.in.Write(append(text, '\n'))
	}
	h.mu.Unlock()
	if err != nil {
		return answer{}, fmt.Errorf("tell the worker at %s: %w", h.place.Name, err)
	}
	select {
	case a := <-ch:
		if a.Error != "" {
			return a, fmt.Errorf("%s %s at %s: %s", o.Do, o.Service, h.place.Name, a.Error)
		}
		return a, nil
	case <-h.ended:
		return answer{}, fmt.Errorf("the worker at %s has ended", h.place.Name)
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

// dismiss ends every worker: kindly, then by its process id.
func (c crew) dismiss() error {
	var errs []error
	for _, h := range c {
		h.in.Close() //nolint:errcheck // a pipe
	}
	for _, h := range c {
		select {
		case <-h.ended:
		case <-time.After(3 * time.Second):
			h.cmd.Process.Kill() //nolint:errcheck // it may have ended now
			<-h.ended
		}
		if err := h.cmd.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("worker at %s: %w", h.place.Name, err))
		}
	}
	return errors.Join(errs...)
}
