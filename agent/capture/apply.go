package capture

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"weft/agent/capture/bpf"
	"weft/internal/tchook"
	"weft/wire/tapstream"
	"weft/wire/wirepb"
)

// The states of a tapped workload.
const (
	itemCapturing = "Capturing"
	itemError     = "Error"
)

// Apply makes the kernel tap what the section says, and no more. workloads are
// all there are on the host; one that the section names and that is missing, or whose
// interface is, is an item in error and hinders nothing else. Call it again
// when either changes.
//
// The error is of the whole; the items are one for each workload of each line,
// "LINE/WORKLOAD-ID".
func (c *Capture) Apply(ctx context.Context, section *wirepb.CaptureSection, workloads []Workload) ([]*wirepb.ItemStatus, error) {
	c.applying.Lock()
	defer c.applying.Unlock()
	wanted := make(map[string]*wirepb.CaptureLine)
	for _, l := range section.GetLines() {
		if n := len(l.GetLine()); n == 0 || n > len(lineEntry{}.ID) {
			return nil, fmt.Errorf("line id of %d bytes: want 1 to %d", n, len(lineEntry{}.ID))
		}
		if wanted[l.GetLine()] != nil {
			return nil, fmt.Errorf("line %s is there twice", l.GetLine())
		}
		wanted[l.GetLine()] = l
	}
	if len(wanted) == 0 {
		return nil, c.removeAll()
	}
	if err := c.ensureStore(); err != nil {
		return nil, err
	}
	if err := c.scan(); err != nil {
		return nil, err
	}
	var errs []error
	for id, l := range c.byID {
		if wanted[id] == nil {
			if err := c.removeLine(l); err != nil {
				errs = append(errs, fmt.Errorf("remove line %s: %w", id, err))
			}
		}
	}
	named := make(map[string]bool)
	for _, l := range section.GetLines() {
		for _, id := range l.GetWorkloads() {
			named[id] = true
		}
	}
	c.numbers.keep(named)
	known := make(map[string]Workload, len(workloads))
	for _, w := range workloads {
		known[w.ID] = w
	}
	var items []*wirepb.ItemStatus
	for _, want := range section.GetLines() {
		if ctx.Err() != nil {
			return items, ctx.Err()
		}
		got, err := c.applyLine(want, known)
		if err != nil {
			got = nil
			for _, w := range want.GetWorkloads() {
				got = append(got, item(want, w, err))
			}
			errs = append(errs, fmt.Errorf("tap %s: %w", want.GetTap(), err))
		}
		items = append(items, got...)
	}
	if err := c.forgetPorts(); err != nil {
		errs = append(errs, err)
	}
	return items, errors.Join(errs...)
}

// scan reads what is attached and takes away what belongs to no line, as where
// the maps were lost and the programs were not.
func (c *Capture) scan() (err error) {
	if c.there, err = c.hooks.scan(); err != nil {
		return err
	}
	for p := range c.there {
		if p.slot < bpf.MaxLines && c.slots[p.slot] != nil {
			continue
		}
		if err := c.hooks.detach(p); err != nil {
			return fmt.Errorf("take away what an earlier agent left: %w", err)
		}
		delete(c.there, p)
	}
	return nil
}

func item(l *wirepb.CaptureLine, workload string, err error) *wirepb.ItemStatus {
	s := &wirepb.ItemStatus{Item: l.GetLine() + "/" + workload, State: itemCapturing}
	if err != nil {
		s.State, s.Message = itemError, err.Error()
	}
	return s
}

// ensureStore opens the kernel's side and takes over the lines it finds.
func (c *Capture) ensureStore() error {
	if c.store != nil {
		return nil
	}
	way, use, other, err := chooseHooks(c.cfg.Attach, c.cfg.BPFDir, filepath.Join(c.cfg.BPFDir, layout), tchook.TCX)
	if err != nil {
		return err
	}
	s, err := openStore(c.cfg.BPFDir, c.cfg.RingBytes, c.deps.Log)
	if err != nil {
		return err
	}
	if err := detachAll(other); err != nil { // of an agent that was told to attach in the other way
		s.close()
		return fmt.Errorf("take away what is not attached by %s: %w", way, err)
	}
	c.deps.Log.Debug("chose how to attach", "attach", way)
	c.hooks = use
	c.mu.Lock()
	c.store = s
	c.mu.Unlock()
	if err := c.own.open(s.maps["own"]); err != nil {
		return err
	}
	for i := range uint32(bpf.MaxWorkloads) {
		var e workloadEntry
		if err := s.maps["workloads"].Lookup(i, &e); err != nil {
			return fmt.Errorf("read workloads: %w", err)
		}
		c.numbers.byID[i] = e.id()
		if e.IDLen > 0 {
			c.numbers.next = (i + 1) % bpf.MaxWorkloads
		}
	}
	for slot := range uint32(bpf.MaxLines) {
		var e lineEntry
		if err := s.maps["lines"].Lookup(slot, &e); err != nil {
			return fmt.Errorf("read lines: %w", err)
		}
		if e.State == 0 {
			c.freeFrom[slot] = s.ring.produced()
			continue
		}
		c.admit(e.id(), slot, e.Digest)
		c.deps.Log.Info("took over a tap line", "line", e.id())
	}
	c.startReader()
	return nil
}

// admit makes a line known to the reader and starts its stream.
func (c *Capture) admit(id string, slot uint32, digest [32]byte) *line {
	l := newLine(id, slot, c.store.counts(slot), c.cfg.BufferBytes, new([]byte), c.deps.Now())
	if c.reader != nil {
		l.out = &c.reader.out
	}
	l.digest = digest
	c.byID[id] = l
	c.mu.Lock()
	c.slots[slot] = l
	c.mu.Unlock()
	return l
}

// newSlot finds a slot that no record in the ring can bear any more.
func (c *Capture) newSlot() (uint32, error) {
	read := c.store.ring.consumed()
	for slot := range uint32(bpf.MaxLines) {
		if c.slots[slot] == nil && c.freeFrom[slot] <= read {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("no room for one more line; %d are possible on a host", bpf.MaxLines)
}

func (c *Capture) writeLine(slot uint32, state uint32, id string, digest [32]byte) error {
	e := lineEntry{State: state, IDLen: uint32(len(id)), Digest: digest}
	copy(e.ID[:], id)
	if err := c.store.maps["lines"].Put(slot, &e); err != nil {
		return fmt.Errorf("write line: %w", err)
	}
	return nil
}

// addLine takes a slot for a line: counters at zero, a new epoch.
func (c *Capture) addLine(id string) (*line, error) {
	slot, err := c.newSlot()
	if err != nil {
		return nil, err
	}
	zero := make([]kernelCounts, 0)
	if err := c.store.maps["kernel_counts"].Lookup(slot, &zero); err != nil {
		return nil, fmt.Errorf("read the kernel's counters: %w", err)
	}
	clear(zero)
	if err := c.store.maps["kernel_counts"].Put(slot, zero); err != nil {
		return nil, fmt.Errorf("clear the kernel's counters: %w", err)
	}
	var epoch [8]byte
	rand.Read(epoch[:])
	c.store.counts(slot).reset(binary.NativeEndian.Uint64(epoch[:]))
	if err := c.writeLine(slot, 1, id, [32]byte{}); err != nil {
		return nil, err
	}
	return c.admit(id, slot, [32]byte{}), nil
}

// removeLine takes a line and its kernel objects away. Its frames still in the
// ring are dropped, with its ledger.
func (c *Capture) removeLine(l *line) error {
	if err := c.unlink(l.slot, nil); err != nil {
		return err
	}
	if err := c.writeLine(l.slot, 0, "", [32]byte{}); err != nil {
		return err
	}
	c.mu.Lock()
	c.slots[l.slot] = nil
	c.mu.Unlock()
	c.freeFrom[l.slot] = c.store.ring.produced()
	delete(c.byID, l.id)
	c.stopLine(l)
	return nil
}

// digestLine names everything that the programs of a line are made from.
func digestLine(l *wirepb.CaptureLine) [32]byte {
	made := proto.Clone(l).(*wirepb.CaptureLine)
	made.Line, made.Tap, made.Tool, made.Workloads, made.Filter, made.Ingress, made.Egress = "", "", nil, nil, "", false, false
	b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(made)
	h := sha256.New()
	h.Write([]byte(bpf.Digest()))
	h.Write(b)
	return [32]byte(h.Sum(nil))
}

func (c *Capture) applyLine(want *wirepb.CaptureLine, known map[string]Workload) ([]*wirepb.ItemStatus, error) {
	l := c.byID[want.GetLine()]
	if l == nil {
		var err error
		if l, err = c.addLine(want.GetLine()); err != nil {
			return nil, err
		}
	}
	ports, items := c.resolve(want, known)
	if err := c.nameWorkloads(l, want); err != nil {
		return nil, err
	}
	failed, err := c.link(l, want, ports)
	if err != nil {
		return nil, err
	}
	for _, it := range items {
		if err := failed[it.workload]; err != nil && it.err == nil {
			it.err = err
		}
	}
	c.setPeer(l, want.GetTool())
	c.startLine(l)
	out := make([]*wirepb.ItemStatus, len(items))
	for i, it := range items {
		out[i] = item(want, it.workload, it.err)
	}
	return out, nil
}

// setPeer changes where a line goes; another tool ends the present connection.
func (c *Capture) setPeer(l *line, peer *wirepb.Peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peer != nil && l.peer.GetSpiffeId() != peer.GetSpiffeId() && l.redial != nil {
		l.redial()
	}
	l.peer = peer
}

// nameWorkloads gives the line's workloads numbers and tells the stream.
func (c *Capture) nameWorkloads(l *line, want *wirepb.CaptureLine) error {
	var names []tapstream.Name
	for _, id := range want.GetWorkloads() {
		if len(id) == 0 || len(id) > len(workloadEntry{}.ID) {
			return fmt.Errorf("workload id of %d bytes: want 1 to %d", len(id), len(workloadEntry{}.ID))
		}
		number, err := c.numbers.number(id)
		if err != nil {
			return err
		}
		e := workloadEntry{IDLen: uint32(len(id))}
		copy(e.ID[:], id)
		if err := c.store.maps["workloads"].Put(number, &e); err != nil {
			return fmt.Errorf("write workload: %w", err)
		}
		names = append(names, tapstream.Name{Number: number, ID: id})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.names { // frames of those that went may still be on their way
		if !slices.ContainsFunc(names, func(m tapstream.Name) bool { return m.Number == n.Number }) {
			names = append(names, n)
		}
	}
	if !slices.Equal(names, l.names) {
		l.names = names
		l.namings++
	}
	return nil
}

// removeHooks takes away all that is attached from this directory of pins, in
// either way.
func removeHooks(base, dir string) error {
	for _, h := range []hooks{&tcxHooks{dir: dir}, &clsactHooks{base: base, dir: dir}} {
		if err := detachAll(h); err != nil {
			return err
		}
	}
	return nil
}

// removePins takes away what an agent that is not running has left.
func removePins(base string, log *slog.Logger) error {
	entries, err := os.ReadDir(base)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list %s: %w", base, err)
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), layoutPrefix) {
			dirs = append(dirs, filepath.Join(base, e.Name()))
		}
	}
	filters, err := (&clsactHooks{base: base, dir: filepath.Join(base, layout)}).scan()
	if err != nil {
		return err
	}
	if len(dirs) == 0 && len(filters) == 0 {
		return nil
	}
	if _, err := os.Stat(base); err == nil {
		lock, err := lockDir(base)
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	log.Info("removing the taps an earlier agent left", "dir", base)
	for _, dir := range append(dirs, filepath.Join(base, layout)) {
		if err := removeHooks(base, dir); err != nil {
			return err
		}
		if err := (&store{dir: dir}).remove(); err != nil {
			return err
		}
	}
	return nil
}
