package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"weft/agent/capture"
	"weft/agent/deliver"
	"weft/agent/discover"
	"weft/agent/recording"
	"weft/agent/transport"
	"weft/internal/run"
	"weft/model"
	"weft/wire"
	"weft/wire/wirepb"
)

// lines wires the two ends of a tap: the reconciler of "capture", which takes
// packets at workloads, and that of "deliver", which hands them to a tool.
type lines struct {
	found   *discover.Discover
	log     *slog.Logger // of deliver
	taps    *capture.Capture
	landing *deliver.Deliver
	streams *transport.Transport
	// recordings tap as the section does, in lines of their own.
	recordings *recording.Recordings

	mu      sync.Mutex
	section *wirepb.CaptureSection // as applied last; nil before, when taps does not hold what there is
}

func newLines(c config, found *discover.Discover, part func(string) *slog.Logger) (*lines, error) {
	l := &lines{found: found, log: part("deliver")}
	var err error
	if l.landing, err = deliver.New(deliver.Config{Attach: deliver.Attach(c.Attach)}, deliver.Deps{Log: l.log}); err != nil {
		return nil, err
	}
	l.recordings = recording.New(recording.Config{Off: c.Captures == "off", Rings: filepath.Join(c.StateDir, "rings"), Now: clock}, recording.Deps{Apply: l.applyRecordings, Ledger: l.ledger, Log: part("recording")})
	l.taps, err = capture.New(capture.Config{BPFDir: c.BPFDir, Attach: capture.Attach(c.Attach)}, capture.Deps{Log: part("capture"), Dial: l.dial})
	return l, err
}

// own notes a connection of the agent itself, so that a tap of this machine
// leaves it out.
func (l *lines) own(conn net.Conn) net.Conn { return l.taps.Own(conn) }

func (l *lines) dial(ctx context.Context, line string, peer *wirepb.Peer) (capture.Conn, error) {
	if recording.Is(line) || l.recordings.Keeps(line) {
		conn, err := l.recordings.Dial(line)
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
	conn, err := l.streams.Dial(ctx, line, peer)
	if err != nil {
		return nil, err
	}
	return streamConn{conn}, nil
}

// streamConn says how a stream travels in the words that capture asks in.
type streamConn struct{ *transport.Conn }

func (c streamConn) Path() (kind, relay, remote string) {
	p := c.Conn.Path()
	return p.Kind, p.Relay, p.Remote
}

func (l *lines) services() []run.Service {
	return []run.Service{{Name: "rings", Run: l.recordings.Run}, {Name: "capture", Run: func(ctx context.Context, ready func()) error {
		// What is in the kernel stays when the agent goes.
		defer l.landing.Close()
		defer l.taps.Close()
		return l.taps.Run(ctx, ready)
	}}}
}

func (l *lines) applyDeliver(ctx context.Context, s *wirepb.Section) ([]*wirepb.ItemStatus, error) {
	return l.landing.Apply(ctx, s.GetDeliver())
}

func (l *lines) applyCapture(ctx context.Context, s *wirepb.Section) ([]*wirepb.ItemStatus, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.section = s.GetCapture()
	if l.section == nil {
		l.section = &wirepb.CaptureSection{}
	}
	kept := l.recordings.Keep(l.section)
	items, err := l.apply(ctx)
	err = errors.Join(kept, err)
	return slices.DeleteFunc(items, func(i *wirepb.ItemStatus) bool { return recording.Is(i.Item) }), err
}

// apply makes the kernel tap for the section and for recordings.
func (l *lines) apply(ctx context.Context) ([]*wirepb.ItemStatus, error) {
	_, workloads := l.found.Snapshot()
	all := &wirepb.CaptureSection{Lines: l.recordings.Lines()}
	var refused []*wirepb.ItemStatus
	for _, line := range l.section.GetLines() {
		if line.GetTool() != nil { // a ring's has none
			all.Lines = append(all.Lines, line)
			continue
		}
		if why := l.recordings.Refuses(line.GetLine()); why != "" {
			for _, w := range line.GetWorkloads() {
				refused = append(refused, &wirepb.ItemStatus{Item: line.GetLine() + "/" + w, State: "Error", Message: why})
			}
			continue
		}
		line = proto.CloneOf(line)
		line.Tool = &wirepb.Peer{Name: "the ring of this host"}
		all.Lines = append(all.Lines, line)
	}
	items, err := l.taps.Apply(ctx, all, tappable(workloads))
	return append(items, refused...), err
}

// applyRecordings says what is wrong with the workloads of one of the recordings.
func (l *lines) applyRecordings(ctx context.Context, line string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.section == nil {
		return errors.New("the agent has no plan yet, and could take taps of an earlier one away; capture again in a moment")
	}
	items, err := l.apply(ctx)
	var faults []string
	for _, i := range items {
		if workload, ok := strings.CutPrefix(i.Item, line+"/"); ok && i.Message != "" {
			faults = append(faults, workload+": "+i.Message)
		}
	}
	if len(faults) > 0 {
		return errors.New(strings.Join(faults, "; "))
	}
	return err
}

// ledger is a line's account.
func (l *lines) ledger(line string) *wirepb.Ledger {
	for _, s := range l.taps.Lines() {
		if s.Line == line {
			return s.Ledger
		}
	}
	return nil
}

// tappable says where each workload's frames pass.
func tappable(workloads []*wirepb.Workload) []capture.Workload {
	out := make([]capture.Workload, 0, len(workloads))
	for _, w := range workloads {
		sense := capture.Veth
		if w.Kind == string(model.WorkloadHost) {
			sense = capture.Uplink
		}
		out = append(out, capture.Workload{ID: w.Id, Interfaces: w.Interfaces, Sense: sense, Untappable: untappable(w)})
	}
	return out
}

// untappable says why a workload without interfaces has none.
func untappable(w *wirepb.Workload) string {
	switch {
	case len(w.Interfaces) > 0:
		return ""
	case w.Kind == string(model.WorkloadUnit):
		return "a unit has the host's network, in which its packets cannot be told apart yet: tap the host with a filter"
	case w.Labels["container.network"] == "host":
		return "the container has the host's network, in which its packets cannot be told apart yet: tap the host with a filter"
	case len(w.Addresses) == 0:
		return "the container has no network: nothing to tap"
	}
	return "" // macvlan, a moved device: no end of a pair is ours
}

// accept serves a stream that another agent has opened.
func (l *lines) accept(ctx context.Context, conn net.Conn, peer wire.Identity) {
	err := l.landing.Serve(ctx, conn, peer.String())
	level := slog.LevelWarn
	if errors.Is(err, io.EOF) { // the source went, or took the other of two paths
		level = slog.LevelDebug
	}
	if err != nil {
		l.log.Log(ctx, level, "stream ended", "source", peer.Name, "error", err)
	}
}

// report is nil while an earlier agent's lines are not taken over yet: that there
// are none would be a lie, and their accounts would seem to begin anew.
func (l *lines) report() *wirepb.LineReport {
	l.mu.Lock()
	known := l.section != nil
	l.mu.Unlock()
	if !known {
		return nil
	}
	return &wirepb.LineReport{Lines: slices.DeleteFunc(l.taps.Lines(), func(s *wirepb.LineStatus) bool { return recording.Is(s.Line) }), Rings: l.recordings.Rings()}
}
