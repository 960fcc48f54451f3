package relay

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"weft/wire/relaywire"
)

// pipe joins two streams. What one side sends waits in the window of that
// side's stream until the other takes it: a slow reader stops its own writer
// and nobody else, and costs no more memory than the windows.
type pipe struct {
	a, b *yamux.Stream
	last atomic.Int64 // when a byte last moved, Unix nanoseconds
}

var buffers = sync.Pool{New: func() any { return new([relaywire.Chunk]byte) }}

// run copies until both directions ended, or one failed.
func (p *pipe) run(count *atomic.Uint64) {
	var wg sync.WaitGroup
	wg.Go(func() { p.copy(p.b, p.a, count) })
	p.copy(p.a, p.b, count)
	wg.Wait()
}

func (p *pipe) copy(dst, src *yamux.Stream, count *atomic.Uint64) {
	buf := buffers.Get().(*[relaywire.Chunk]byte)
	defer buffers.Put(buf)
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			p.last.Store(time.Now().UnixNano())
			if _, err := dst.Write(buf[:n]); err != nil {
				p.abort()
				return
			}
			count.Add(uint64(n))
			p.last.Store(time.Now().UnixNano())
		}
		if err == io.EOF && !src.Session().IsClosed() {
			dst.Close() // our half alone; the other goes on
			return
		}
		if err != nil {
			p.abort()
			return
		}
	}
}

func (p *pipe) abort() {
	relaywire.Abort(p.a)
	relaywire.Abort(p.b)
}

// pipes are all there are.
type pipes struct {
	mu    sync.Mutex
	all   map[*pipe]struct{}
	bytes atomic.Uint64 // forwarded, both directions
}

func (g *pipes) add(a, b *yamux.Stream, max int) (*pipe, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.all) >= max {
		return nil, false
	}
	p := &pipe{a: a, b: b}
	p.last.Store(time.Now().UnixNano())
	g.all[p] = struct{}{}
	return p, true
}

func (g *pipes) remove(p *pipe) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.all, p)
}

func (g *pipes) len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.all)
}

// expire ends pipes in which nothing moved for the time given. One look at
// all of them now and then is cheaper than a timer for each read.
func (g *pipes) expire(ctx context.Context, idle time.Duration) {
	ticker := time.NewTicker(max(idle/8, 10*time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			oldest := now.Add(-idle).UnixNano()
			g.mu.Lock()
			var ended []*pipe
			for p := range g.all {
				if p.last.Load() < oldest {
					ended = append(ended, p)
				}
			}
			g.mu.Unlock()
			for _, p := range ended {
				p.abort()
			}
		}
	}
}
