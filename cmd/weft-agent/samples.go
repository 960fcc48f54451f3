package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"weft/agent/discover"
	"weft/agent/monitor"
	"weft/cmd/top"
	"weft/model"
	"weft/wire/samplewire"
	"weft/wire/wirepb"
)

// maxViewers bounds who looks by the socket at one time.
const maxViewers = 8

// sampleServer answers at a Unix socket in the state directory (0600) with what
// this machine is doing; see top.SampleSocket.
type sampleServer struct {
	path  string
	watch *monitor.Watch
	log   *slog.Logger
}

// Run answers until ctx ends. That the socket cannot be made is no reason not to
// work.
func (s *sampleServer) Run(ctx context.Context, ready func()) error {
	var viewers sync.WaitGroup
	defer viewers.Wait()
	room := make(chan struct{}, maxViewers)
	err := serveSocket(ctx, s.path, ready, func(conn net.Conn) {
		select {
		case room <- struct{}{}:
			viewers.Go(func() {
				defer func() { <-room }()
				s.serve(ctx, conn)
			})
		default:
			conn.Close()
		}
	})
	if err != nil {
		s.log.Warn("samples are not served on this machine", "error", err)
		<-ctx.Done()
	}
	return nil
}

func (s *sampleServer) serve(parent context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var asked top.Request
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if err := json.NewDecoder(io.LimitReader(conn, 4096)).Decode(&asked); err != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	go func() { // a viewer says nothing more: what can be read is its end
		_, _ = conn.Read(make([]byte, 1))
		cancel()
	}()
	interval := time.Duration(max(top.MinInterval.Seconds(), min(asked.Seconds, top.MaxInterval.Seconds())) * float64(time.Second))
	var text []byte
	for ctx.Err() == nil {
		var err error
		pause := interval
		if e := s.watch.Sample(func(x *model.Sample) {
			if x.Seconds == 0 {
				pause = min(interval, time.Second)
			}
			text, err = json.Marshal(x)
		}); e != nil || err != nil {
			return
		}
		_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Write(append(text, '\n')); err != nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// newWatch wires the monitor: discovery tells it what containers are called, the
// connection table what processes send.
func newWatch(c config, found *discover.Discover, t *traffic) *monitor.Watch {
	names := &names{found: found, below: strings.TrimSuffix(strings.TrimPrefix(cgroupRoot(c), cgroup2()), "/")}
	return monitor.NewWatch(monitor.New(monitor.Config{Host: c.Name}, monitor.Deps{Workload: names.of, Network: t.rates}))
}

// sampler hands samples to the session.
type sampler struct{ watch *monitor.Watch }

func (s sampler) Sample(processes int) (out *wirepb.Sample, err error) {
	err = s.watch.Sample(func(x *model.Sample) {
		x = monitor.Copy(x)
		monitor.Heaviest(x, processes)
		out = samplewire.Encode(x)
	})
	return out, err
}

func sampleSocket(c config) string { return filepath.Join(c.StateDir, top.SampleSocket) }

// names tells workloads by their cgroups.
type names struct {
	found   *discover.Discover
	below   string // where discovery begins in the tree
	changed <-chan struct{}
	all     map[string]*wirepb.Workload
}

func (n *names) of(cgroup string) (id, name string, kind model.WorkloadKind) {
	cgroup, ours := strings.CutPrefix(cgroup, n.below)
	if !ours {
		return "", "", ""
	}
	select {
	case <-n.changed:
		n.all = nil
	default:
	}
	if n.all == nil {
		n.changed, n.all = n.found.Changed(), map[string]*wirepb.Workload{}
		_, list := n.found.Snapshot()
		for _, w := range list {
			if w.Kind == string(model.WorkloadContainer) || w.Kind == string(model.WorkloadUnit) {
				n.all[w.Cgroup] = w
			}
		}
	}
	w := n.all[cgroup]
	return w.GetId(), w.GetName(), model.WorkloadKind(w.GetKind())
}
