package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"weft/agent"
	"weft/agent/capture"
	"weft/agent/deliver"
	"weft/agent/discover"
	"weft/agent/transport"
	"weft/internal/identity"
	"weft/internal/run"
	"weft/internal/version"
	"weft/model"
	"weft/wire"
	"weft/wire/wirepb"
)

// options are what the agent is told at its start.
type options struct {
	Controller string
	TokenFile  string
	Name       string
	StateDir   string
	CgroupRoot string
	BPFDir     string
	LabelsDir  string
	Labels     map[string]string
}

// buildAgent wires the agent: who it is, what is here, what it does about it,
// and the loop that keeps it in step with the controller.
func buildAgent(o options, log *slog.Logger) ([]run.Service, func(), error) {
	part := func(name string) *slog.Logger { return log.With("part", name) }
	state, err := agent.OpenState(o.StateDir)
	if err != nil {
		return nil, nil, err
	}
	id, err := identity.New(identity.Config{Dir: o.StateDir, Controller: o.Controller, TokenFile: o.TokenFile, Role: model.RoleHost, Name: o.Name},
		identity.Deps{Log: part("identity")})
	if err != nil {
		return nil, nil, err
	}
	found, err := discover.New(discover.Config{CgroupRoot: o.CgroupRoot, Labels: o.Labels, LabelsDir: o.LabelsDir}, discover.Deps{Log: part("discover")})
	if err != nil {
		return nil, nil, err
	}
	landing, err := deliver.New(deliver.Config{}, deliver.Deps{Log: part("deliver")})
	if err != nil {
		return nil, nil, err
	}
	streams, err := transport.New(transport.Config{}, transport.Deps{Identity: id, Log: part("transport"),
		Accept: func(ctx context.Context, conn net.Conn, peer wire.Identity) {
			if err := landing.Serve(ctx, conn, peer.String()); err != nil {
				part("deliver").Warn("stream ended", "source", peer.Name, "error", err)
			}
		}})
	if err != nil {
		return nil, nil, err
	}
	taps, err := capture.New(capture.Config{BPFDir: o.BPFDir}, capture.Deps{Log: part("capture"),
		Dial: func(ctx context.Context, line string, peer *wirepb.Peer) (capture.Conn, error) {
			conn, err := streams.Dial(ctx, line, peer)
			if err != nil {
				return nil, err
			}
			return streamConn{conn}, nil
		}})
	if err != nil {
		return nil, nil, err
	}
	sync, err := agent.New(agent.Config{Controller: o.Controller, Version: version.Version}, agent.Deps{
		State: state, HTTP: id.HTTPClient(), Inventory: found, Log: part("sync"),
		Reconcilers: map[string]agent.Reconciler{
			"transport": func(ctx context.Context, s *wirepb.Section) ([]*wirepb.ItemStatus, error) {
				return nil, streams.Apply(ctx, s.GetTransport())
			},
			"deliver": func(ctx context.Context, s *wirepb.Section) ([]*wirepb.ItemStatus, error) {
				return landing.Apply(ctx, s.GetDeliver())
			},
			"capture": func(ctx context.Context, s *wirepb.Section) ([]*wirepb.ItemStatus, error) {
				_, workloads := found.Snapshot()
				return taps.Apply(ctx, s.GetCapture(), tappable(workloads))
			},
		},
		Lines: func() *wirepb.LineReport { return &wirepb.LineReport{Lines: taps.Lines()} },
		CertificateExpires: func() time.Time {
			if c := id.Certificate(); c != nil {
				return c.NotAfter
			}
			return time.Time{}
		},
		Welcome: func(w *wirepb.Welcome) {
			id.ObserveTime(time.Unix(0, w.UnixNanos))
			if err := id.SetBundle(w.CaBundle); err != nil {
				part("identity").Warn("take over authorities", "error", err)
			}
		},
	})
	if err != nil {
		return nil, nil, err
	}
	closeAll := func() {
		taps.Close()
		landing.Close()
		state.Close()
	}
	return []run.Service{
		{Name: "identity", Run: id.Run},
		{Name: "discover", Run: found.Run},
		{Name: "transport", Run: streams.Run},
		{Name: "capture", Run: taps.Run},
		{Name: "sync", Run: sync.Run},
	}, closeAll, nil
}

// streamConn says how a stream travels in the words that capture asks in.
type streamConn struct{ *transport.Conn }

func (c streamConn) Path() (kind, relay, remote string) {
	p := c.Conn.Path()
	return p.Kind, p.Relay, p.Remote
}

// tappable says where each workload's frames pass.
func tappable(workloads []*wirepb.Workload) []capture.Workload {
	out := make([]capture.Workload, 0, len(workloads))
	for _, w := range workloads {
		sense := capture.Veth
		if w.Kind == string(model.WorkloadHost) {
			sense = capture.Uplink
		}
		out = append(out, capture.Workload{ID: w.Id, Interfaces: w.Interfaces, Sense: sense})
	}
	return out
}

func hostName() (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("find this host's name: %w; give --name", err)
	}
	return name, nil
}
