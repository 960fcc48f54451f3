// Package capture taps workloads: it keeps the kernel's programs as the plan
// wants them, reads what they copy, and sends each line's frames to its tool.
// README.md beside this file holds the rules of the ledger and of duplicates.
package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weft/agent/capture/bpf"
	"weft/wire"
	"weft/wire/wirepb"
)

// Config of a Capture.
type Config struct {
	// BPFDir is a directory on a BPF file system that is this agent's own.
	BPFDir string
	// RingBytes is the size of the ring all lines share: a power of two, 16 MiB
	// unless given. A ring that is pinned already keeps its size.
	RingBytes int
	// BufferBytes bounds what one line keeps unacknowledged; 8 MiB unless given.
	BufferBytes int
	// Attach is how programs are held on interfaces: AttachAuto unless given.
	Attach Attach
}

// Deps are what a Capture needs from outside.
type Deps struct {
	Log *slog.Logger
	// Dial opens a connection to a tool's agent for a line.
	Dial func(ctx context.Context, line string, peer *wirepb.Peer) (Conn, error)
	// Now is the clock of the statuses; time.Now unless given.
	Now func() time.Time
}

// Capture is the reconciler of the capture section.
type Capture struct {
	cfg  Config
	deps Deps

	applying sync.Mutex      // one Apply, Remove or Close at a time; guards the next seven
	ctx      context.Context // of the streams; nil unless Run is running
	byID     map[string]*line
	numbers  workloadNumbers
	freeFrom map[uint32]uint64 // slot -> ring position from which it may be used again
	reader   *reader
	hooks    hooks        // nil before the first Apply that wants a tap
	there    map[pin]bool // what is attached, as hooks found it and c has changed it

	mu    sync.Mutex // the reader's: held for a chunk of records
	store *store
	slots [bpf.MaxLines]*line

	own ownConns
}

const drainOnStop = 2 * time.Second

// New returns a Capture that has touched nothing yet.
func New(cfg Config, deps Deps) (*Capture, error) {
	if cfg.BPFDir == "" {
		return nil, errors.New("capture needs a directory on a BPF file system")
	}
	if cfg.RingBytes == 0 {
		cfg.RingBytes = 16 << 20
	}
	if cfg.BufferBytes == 0 {
		cfg.BufferBytes = 8 << 20
	}
	if n := cfg.RingBytes; n < unix.Getpagesize() || n&(n-1) != 0 || n > 1<<30 {
		return nil, fmt.Errorf("ring of %d bytes: want a power of two from a page to 1 GiB", n)
	}
	if cfg.BufferBytes < 1<<20 {
		return nil, fmt.Errorf("buffer of %d bytes: want 1 MiB at least", cfg.BufferBytes)
	}
	switch cfg.Attach {
	case "":
		cfg.Attach = AttachAuto
	case AttachAuto, AttachTCX, AttachClsact:
	default:
		return nil, fmt.Errorf("attach %q: want auto, tcx or clsact", cfg.Attach)
	}
	if deps.Dial == nil || deps.Log == nil {
		return nil, errors.New("capture needs a log and a way to dial")
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	return &Capture{cfg: cfg, deps: deps, byID: make(map[string]*line), freeFrom: make(map[uint32]uint64)}, nil
}

// Run reads the ring and works the streams of the lines that Apply sets, until
// ctx ends. It then gives what it has taken two seconds to arrive; what
// stays in the ring waits for the next agent.
func (c *Capture) Run(ctx context.Context, ready func()) error {
	streams, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	c.applying.Lock()
	c.ctx = streams
	c.startReader()
	for _, l := range c.byID {
		c.startLine(l)
	}
	c.applying.Unlock()
	ready()
	<-ctx.Done()

	c.applying.Lock()
	defer c.applying.Unlock()
	c.stopReader()
	c.flush()
	c.ctx = nil
	cancel()
	for _, l := range c.byID {
		c.stopLine(l)
	}
	return nil
}

// flush seals every batch and waits a little for the acknowledgements.
func (c *Capture) flush() {
	c.mu.Lock()
	for _, l := range c.byID {
		l.seal()
	}
	c.mu.Unlock()
	deadline := time.Now().Add(drainOnStop)
	for _, l := range c.byID {
		for !l.queue.empty() && l.connected() && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func (l *line) connected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status.State == stateConnected
}

func (c *Capture) startReader() {
	if c.store == nil || c.ctx == nil || c.reader != nil {
		return
	}
	c.reader = &reader{c: c, done: make(chan struct{})}
	for _, l := range c.byID {
		l.out = &c.reader.out
	}
	go c.reader.run(c.ctx)
}

func (c *Capture) stopReader() {
	if c.reader == nil {
		return
	}
	c.reader.stop.Store(true)
	c.store.poke()
	<-c.reader.done
	c.reader = nil
}

func (c *Capture) startLine(l *line) {
	if c.ctx == nil || l.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(c.ctx)
	l.stop, l.done = cancel, make(chan struct{})
	go c.stream(ctx, l)
}

func (c *Capture) stopLine(l *line) {
	if l.stop == nil {
		return
	}
	l.stop()
	<-l.done
	l.stop = nil
}

// Close lets go of the kernel's objects and leaves them as they are: the taps
// go on and the ring keeps their frames. Call it after Run has returned.
func (c *Capture) Close() error {
	c.applying.Lock()
	defer c.applying.Unlock()
	c.closeStore()
	return nil
}

func (c *Capture) closeStore() {
	c.stopReader()
	for id, l := range c.byID {
		c.stopLine(l)
		delete(c.byID, id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots = [bpf.MaxLines]*line{}
	c.own.close()
	if c.store != nil {
		c.store.close()
		c.store = nil
	}
	c.hooks, c.there = nil, nil
	clear(c.freeFrom)
	c.numbers = workloadNumbers{}
}

// Remove takes every kernel object of ours away.
func (c *Capture) Remove() error {
	c.applying.Lock()
	defer c.applying.Unlock()
	return c.removeAll()
}

func (c *Capture) removeAll() error {
	if c.store == nil {
		return removePins(c.cfg.BPFDir, c.deps.Log)
	}
	err := removeHooks(c.cfg.BPFDir, c.store.dir)
	if err == nil {
		err = c.store.remove()
	}
	c.closeStore()
	return err
}

// Lines returns the state and the account of every line.
func (c *Capture) Lines() []*wirepb.LineStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*wirepb.LineStatus
	for slot, l := range c.slots {
		if l == nil {
			continue
		}
		account, err := c.store.ledger(uint32(slot))
		l.mu.Lock()
		status := &wirepb.LineStatus{Line: l.id, State: l.status.State, Path: l.status.Path, Relay: l.status.Relay,
			Remote: l.status.Remote, Since: l.status.Since, Message: l.status.Message, Ledger: wire.LedgerFromModel(account)}
		l.mu.Unlock()
		if err != nil {
			status.Message = err.Error()
		}
		out = append(out, status)
	}
	return out
}
