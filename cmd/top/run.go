package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"weft/model"
)

// Feed gives samples of a machine, each with how long ago it was true, until ctx
// ends. What it gives is not changed afterwards.
type Feed func(ctx context.Context, host string, give func(x *model.Sample, age time.Duration)) error

// Config of a screen.
type Config struct {
	// Interval is the time between two samples.
	Interval time.Duration
	// Sort is what processes are sorted by: one of Orders.
	Sort string
	// Host is whose figures are shown; empty is the fleet where there is one, and
	// else this machine.
	Host string
	// Feed gives a machine's samples until ctx ends. It is called again where it
	// fails.
	Feed Feed
	// Fleet gives all hosts; nil where there is no fleet to browse.
	Fleet func(ctx context.Context) ([]model.Glance, error)
}

// The least and the most time between two samples.
const (
	MinInterval = 500 * time.Millisecond
	MaxInterval = 10 * time.Minute
)

func (c *Config) check() (order, error) {
	if c.Interval < MinInterval || c.Interval > MaxInterval {
		return 0, fmt.Errorf("--interval %s: take one from %s to %s", c.Interval, MinInterval, MaxInterval)
	}
	return findOrder(c.Sort)
}

// again is how long it is waited before a feed that failed is asked again.
const again = 2 * time.Second

// Run shows the screen until the person leaves or ctx ends.
func Run(ctx context.Context, cfg Config, in, out *os.File) error {
	o, err := cfg.check()
	if err != nil {
		return err
	}
	if !term.IsTerminal(int(in.Fd())) || !term.IsTerminal(int(out.Fd())) {
		return errors.New("this is no terminal; for scripts and files: --once, or --once -o json")
	}
	kind := os.Getenv("TERM")
	if kind == "" || kind == "dumb" {
		return fmt.Errorf("the terminal (TERM=%s) cannot move its cursor; print the figures instead: --once", kind)
	}
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return fmt.Errorf("set up the terminal: %w", err)
	}
	// The screen that was there comes back, and the cursor with it.
	io.WriteString(out, "\x1b[?1049h\x1b[?25l")
	defer func() {
		io.WriteString(out, "\x1b[0m\x1b[?25h\x1b[?1049l")
		_ = term.Restore(int(in.Fd()), before)
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &loop{cfg: cfg, out: out, color: os.Getenv("NO_COLOR") == "", events: make(chan event, 16),
		screen: screen{browse: cfg.Fleet != nil, host: cfg.Host, order: o, interval: cfg.Interval}}
	go l.read(ctx, in)
	return l.run(ctx)
}

// event is something that happened, applied by the one goroutine that has the screen.
type event struct {
	keys   []key
	apply  func(*screen, time.Time)
	opened int // of which opening it is about; 0 for any
	closed bool
}

type loop struct {
	cfg    Config
	out    io.Writer
	color  bool
	events chan event
	screen screen
	last   *grid
	opened int
	stop   context.CancelFunc // of what feeds the screen
}

func (l *loop) run(ctx context.Context) error {
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	tick := time.NewTicker(time.Second) // ages go on while nothing comes
	defer tick.Stop()
	l.open(ctx)
	defer func() { l.stop() }()
	for {
		if err := l.show(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-resized:
			l.last = nil
		case <-tick.C:
		case e := <-l.events:
			if done := l.handle(ctx, e); done {
				return nil
			}
		}
	}
}

func (l *loop) handle(ctx context.Context, e event) (done bool) {
	if e.closed {
		return true
	}
	if e.apply != nil && (e.opened == 0 || e.opened == l.opened) {
		e.apply(&l.screen, time.Now())
	}
	for _, k := range e.keys {
		switch l.screen.press(k) {
		case quit:
			return true
		case open:
			l.stop()
			l.open(ctx)
		}
	}
	return false
}

// show writes what differs from what is on the terminal.
func (l *loop) show() error {
	width, height := 80, 24
	if f, ok := l.out.(*os.File); ok {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
			width, height = min(w, 1000), min(h, 1000)
		}
	}
	g := l.screen.draw(width, height, time.Now())
	text := g.difference(l.last, l.color)
	l.last = g
	if text == "" {
		return nil
	}
	if _, err := io.WriteString(l.out, text); err != nil {
		return fmt.Errorf("write to the terminal: %w", err)
	}
	return nil
}

// open starts what feeds the screen as it is now: the fleet's list, or one host.
func (l *loop) open(parent context.Context) {
	var ctx context.Context
	ctx, l.stop = context.WithCancel(parent)
	l.opened++
	opened, host, cfg := l.opened, l.screen.host, l.cfg
	send := func(apply func(*screen, time.Time)) {
		select {
		case l.events <- event{apply: apply, opened: opened}:
		case <-ctx.Done():
		}
	}
	fail := func(err error) {
		if err != nil && ctx.Err() == nil {
			send(func(s *screen, _ time.Time) { s.trouble = err })
		}
	}
	if host == "" && cfg.Fleet != nil {
		go repeat(ctx, cfg.Interval, func() {
			list, err := cfg.Fleet(ctx)
			if err != nil {
				fail(err)
				return
			}
			send(func(s *screen, _ time.Time) { s.fleet, s.found, s.trouble = list, true, nil })
		})
		return
	}
	go repeat(ctx, again, func() {
		fail(cfg.Feed(ctx, host, func(x *model.Sample, age time.Duration) {
			send(func(s *screen, now time.Time) { s.take(x, now.Add(-age)) })
		}))
	})
}

// repeat calls f, with a pause after each, until ctx ends.
func repeat(ctx context.Context, pause time.Duration, f func()) {
	for ctx.Err() == nil {
		f()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// read takes the keys. It ends with its input; the terminal's last read outlasts
// ctx and takes nothing that anybody misses.
func (l *loop) read(ctx context.Context, in io.Reader) {
	b := make([]byte, 256)
	for {
		n, err := in.Read(b)
		e := event{keys: keys(b[:n]), closed: err != nil}
		select {
		case l.events <- e:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}
