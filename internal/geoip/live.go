package geoip

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"
)

// Config of Live. Zero values take the defaults.
type Config struct {
	Files []string
	// Every is how often it is looked whether a file is another; 10 s unless given.
	Every time.Duration
}

// Deps of Live.
type Deps struct {
	// Stale is told what is wrong with a file of which what it was before is used; an
	// empty message is that nothing is any more.
	Stale func(file string, since time.Time, message string)
	Log   *slog.Logger
}

// Live is a DB whose files may be replaced. No files know nothing.
type Live struct {
	cfg  Config
	deps Deps
	db   atomic.Pointer[DB]
	// tried is what files were when they were last read, well or not.
	tried []stamp
	wrong []string // what was said of each
}

const lookEvery = 10 * time.Second

// New reads the files, and starts nothing.
func New(cfg Config, deps Deps) (*Live, error) {
	if cfg.Every == 0 {
		cfg.Every = lookEvery
	}
	db, err := Open(cfg.Files...)
	if err != nil {
		return nil, err
	}
	l := &Live{cfg: cfg, deps: deps, tried: make([]stamp, len(db.files)), wrong: make([]string, len(db.files))}
	for i, f := range db.files {
		l.tried[i] = f.stamp
	}
	l.db.Store(db)
	return l, nil
}

// Lookup is that of the files as they are now.
func (l *Live) Lookup(a netip.Addr) Place { return l.db.Load().Lookup(a) }

// Run reads files that were replaced. One that is broken, or gone, changes nothing
// but that it is said.
func (l *Live) Run(ctx context.Context, ready func()) error {
	ready()
	if len(l.cfg.Files) == 0 {
		<-ctx.Done()
		return nil
	}
	look := time.NewTicker(l.cfg.Every)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			l.reread()
		}
	}
}

func (l *Live) reread() {
	for i, name := range l.cfg.Files {
		s, err := stampOf(name)
		if err == nil && s.same(l.tried[i]) {
			continue
		}
		if err != nil {
			l.say(i, err.Error())
			l.tried[i] = stamp{}
			continue
		}
		l.tried[i] = s
		f, err := read(name)
		if err != nil {
			l.say(i, err.Error())
			continue
		}
		db := &DB{files: append([]*file(nil), l.db.Load().files...)}
		db.files[i], l.tried[i] = f, f.stamp
		l.db.Store(db)
		l.deps.Log.Info("an MMDB was read again", "file", name, "built", f.reader.Metadata.BuildTime())
		l.say(i, "")
	}
}

// say tells once of what is wrong with a file, and that nothing is any more.
func (l *Live) say(i int, wrong string) {
	if l.wrong[i] == wrong {
		return
	}
	l.wrong[i] = wrong
	if wrong != "" {
		wrong += "; what the file was before is used"
		l.deps.Log.Warn("an MMDB cannot be read again", "file", l.cfg.Files[i], "error", wrong)
	}
	l.deps.Stale(l.cfg.Files[i], time.Now(), wrong)
}
