package recording

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"weft/agent/recording/ring"
	"weft/wire/tapstream"
	"weft/wire/wirepb"
)

// keeper is the tool's end of a line whose packets are kept on this machine.
type keeper struct {
	end
	owners
	ring   *ring.Ring
	line   string
	ctx    context.Context
	cancel context.CancelFunc

	// Of the stream.
	decoder tapstream.Decoder

	mu    sync.Mutex
	spec  *wirepb.Ring
	names []*wirepb.CaptureName // all that the line uses
	fresh bool                  // the segment has not got them
	// Times of the last packets: that came, that had come when the reading of the
	// connection table began, and when that before it did, and of which it is written
	// whose they are. A connection may be in the table before its process is.
	came, asked, before, known int64
	piece                      wirepb.CapturePiece
	buf                        []byte
	fault                      string
}

func newKeeper(spec *wirepb.Ring, dir string, now func() time.Time, asked *atomic.Int32, log *slog.Logger) (*keeper, error) {
	k := &keeper{spec: spec, line: spec.GetLine()}
	var err error
	if k.ring, err = ring.Open(dir, limitsOf(spec), now); err != nil {
		return nil, err
	}
	k.owners.all = asked
	k.reset()
	k.end = end{named: k.name, take: k.keep, log: log.With("tap", spec.GetTap())}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k, nil
}

func limitsOf(r *wirepb.Ring) ring.Limits {
	return ring.Limits{Bytes: r.GetBytes(), Age: time.Duration(r.GetSeconds()) * time.Second}
}

func (k *keeper) name(names []tapstream.Name) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.names, k.fresh = k.names[:0], true
	for _, n := range names {
		k.names = append(k.names, &wirepb.CaptureName{Number: n.Number, Workload: n.ID})
	}
}

// keep writes a batch to the ring. It waits for the disk, and the line's queue for it:
// what finds no room there is counted, and nobody else waits.
func (k *keeper) keep(_ context.Context, b tapstream.Batch, payload []byte) error {
	if err := k.decoder.Open(b); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	turned, err := k.ring.Turn(ring.MaxBlock / 2)
	if err != nil {
		return k.lose(err)
	}
	if turned { // its packets are of other connections than the last one's may be
		k.fresh = true
		k.reset()
	}
	var r tapstream.Record
	first, last := int64(0), int64(0)
	for {
		ok, err := k.decoder.Next(&r)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if first == 0 || r.Time < first {
			first = r.Time
		}
		last = max(last, r.Time)
		k.ask(&r)
	}
	k.piece.Reset()
	k.piece.Batch = payload
	if k.fresh {
		k.piece.Names = k.names
	}
	if err := k.write(first, last); err != nil {
		return k.lose(err)
	}
	k.fresh, k.came, k.fault = false, max(k.came, last), ""
	return nil
}

func (k *keeper) lose(err error) error {
	if k.fault == "" {
		k.log.Warn("packets are lost that a ring was to keep", "error", err)
	}
	k.fault = err.Error()
	return errNotKept
}

func (k *keeper) write(first, last int64) error {
	var err error
	if k.buf, err = (proto.MarshalOptions{}).MarshalAppend(k.buf[:0], &k.piece); err != nil {
		return err
	}
	return k.ring.Append(ring.Block{First: first, Last: last, Payload: k.buf})
}

// begin is told that the reading of the connection table begins, and know that it
// has ended.
func (k *keeper) begin() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.before, k.asked = k.asked, k.came
}

func (k *keeper) know() {
	k.read()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == k.before {
		return
	}
	k.piece.Reset()
	k.piece.Processes, k.piece.ThroughUnixNanos = k.told(), k.before
	if err := k.write(0, 0); err != nil {
		k.lose(err) //nolint:errcheck // it is said, and no packets were lost
		return
	}
	k.known = k.before
}

// settled says whether it is known of all packets whose they are.
func (k *keeper) settled() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.known == k.came
}

// status is what it keeps.
func (k *keeper) status() *wirepb.RingStatus {
	first, last, bytes := k.ring.Span()
	k.mu.Lock()
	defer k.mu.Unlock()
	return &wirepb.RingStatus{Line: k.spec.GetLine(), Tap: k.spec.GetTap(), Bytes: bytes, Size: k.spec.GetBytes(), OldestUnixNanos: first, NewestUnixNanos: last, Message: k.fault}
}

func (k *keeper) limit(spec *wirepb.Ring) error {
	k.mu.Lock()
	k.spec = spec
	k.mu.Unlock()
	return k.ring.Limit(limitsOf(spec))
}

func (k *keeper) stop() {
	k.cancel()
	k.mu.Lock() // a batch that is being kept
	defer k.mu.Unlock()
	k.reset()
	k.ring.Close()
}

// maxRings bounds how many rings a host keeps.
const maxRings = 64

// Keep makes the rings of this machine those that there are: the others go, and one
// that has no line here any more stays until all of it is too old.
func (r *Recordings) Keep(s *wirepb.CaptureSection) error {
	if r.cfg.Rings == "" {
		return nil
	}
	lines := map[string]bool{}
	for _, l := range s.GetLines() {
		lines[l.GetLine()] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	wanted := map[string]bool{} // by directory
	for _, spec := range s.GetRings() {
		dir := ringDir(spec.GetLine())
		wanted[dir] = true
		k := r.keepers[spec.GetLine()]
		if k != nil {
			errs = append(errs, k.limit(spec))
			continue
		}
		if _, err := os.Stat(filepath.Join(r.cfg.Rings, dir)); err != nil && (!lines[spec.GetLine()] || r.cfg.Off) {
			continue // a ring of others
		}
		if len(r.keepers) >= maxRings {
			errs = append(errs, fmt.Errorf("tap %s: %d rings are kept here, which is the limit", spec.GetTap(), maxRings))
			continue
		}
		k, err := newKeeper(spec, filepath.Join(r.cfg.Rings, dir), r.cfg.Now, &r.asked, r.deps.Log)
		if err != nil {
			errs = append(errs, fmt.Errorf("tap %s: %w", spec.GetTap(), err))
			continue
		}
		r.keepers[spec.GetLine()] = k
	}
	for line, k := range r.keepers {
		if !wanted[ringDir(line)] {
			k.stop()
			errs = append(errs, k.ring.Remove())
			delete(r.keepers, line)
		}
	}
	errs = append(errs, r.sweep(wanted))
	return errors.Join(errs...)
}

// Refuses says why the packets of a line are not kept here; empty where they are.
func (r *Recordings) Refuses(line string) string {
	switch {
	case r.cfg.Off:
		return "captures are off on this host, and rings with them: captures: off in its agent.yaml"
	case !r.Keeps(line):
		return "the ring could not be opened; weft describe host says why"
	}
	return ""
}

// sweep removes rings that an earlier agent kept and that there are no more.
func (r *Recordings) sweep(wanted map[string]bool) error {
	entries, err := os.ReadDir(r.cfg.Rings)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, e := range entries {
		if !wanted[e.Name()] {
			errs = append(errs, os.RemoveAll(filepath.Join(r.cfg.Rings, e.Name())))
		}
	}
	return errors.Join(append(errs, err)...)
}

// ringDir is the name of a ring's directory.
func ringDir(line string) string {
	sum := sha256.Sum256([]byte(line))
	return hex.EncodeToString(sum[:16])
}

// Rings are what this machine keeps.
func (r *Recordings) Rings() (out []*wirepb.RingStatus) {
	for _, k := range r.kept("") {
		out = append(out, k.status())
	}
	return out
}

// kept are the rings that are kept, or that of one line, by line.
func (r *Recordings) kept(line string) (out []*keeper) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, k := range r.keepers {
		if line == "" || line == id {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b *keeper) int { return cmp.Compare(a.line, b.line) })
	return out
}

// expireEach is how often it is looked for what is too old.
const expireEach = 2 * time.Second

// Run removes what rings have kept for long enough, until ctx ends.
func (r *Recordings) Run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(expireEach)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			for _, k := range r.kept("") {
				k.stop()
			}
			return nil
		case <-tick.C:
		}
		for _, k := range r.kept("") {
			if err := k.ring.Expire(); err != nil {
				r.deps.Log.Warn("remove what a ring has kept for long enough", "error", err)
			}
		}
	}
}
