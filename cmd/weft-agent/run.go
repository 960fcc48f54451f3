package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"weft/agent"
	"weft/agent/collector"
	"weft/agent/discover"
	"weft/agent/mirror"
	"weft/agent/monitor"
	"weft/agent/probe"
	"weft/agent/transport"
	"weft/internal/identity"
	"weft/internal/run"
	"weft/internal/sandbox"
	"weft/internal/version"
	"weft/model"
	"weft/wire/wirepb"
)

func newRunCommand() *cobra.Command {
	var f flags
	var check, print bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the agent in the foreground",
		Long: `Run the agent in the foreground.

The first start needs a join token (--token-file); after that the machine has
an identity of its own, which it renews by itself. While the controller is away
the agent works on by its last-known-good state. It listens on no port unless
this host is a tool.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.load()
			if print && (err == nil || c.Name != "") {
				return errors.Join(printConfig(cmd.OutOrStdout(), c), err)
			}
			if err != nil {
				return err
			}
			if check {
				fmt.Fprintln(cmd.OutOrStdout(), "configuration ok")
				return nil
			}
			return runAgent(cmd.Context(), c, c.logger(cmd.ErrOrStderr()))
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&check, "check", false, "check the configuration and exit")
	cmd.Flags().BoolVar(&print, "print-config", false, "print the configuration as it is in force and exit")
	return cmd
}

func printConfig(w io.Writer, c config) error {
	out, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	_, err = w.Write(out)
	return err
}

func runAgent(ctx context.Context, c config, log *slog.Logger) error {
	state, err := agent.OpenState(c.StateDir)
	if err != nil {
		return err
	}
	defer state.Close()
	// Nothing has been read from outside yet, and nothing is started before.
	services, err := buildAgent(c, confine(c, log), state, log)
	if err != nil {
		return err
	}
	return run.All(ctx, log, services...)
}

// clock is this machine's. A test replaces it: no kernel gives a process a wall
// clock of its own.
var clock = time.Now

// buildAgent wires the whole program; reading it is reading its architecture.
// Services start in this order and stop in reverse.
func buildAgent(c config, confined sandbox.Report, state *agent.State, log *slog.Logger) ([]run.Service, error) {
	part := func(name string) *slog.Logger { return log.With("part", name) }

	found, err := discover.New(discover.Config{
		CgroupRoot: c.CgroupRoot, MetadataURL: c.Metadata, Labels: c.Labels, LabelsDir: c.LabelsDir,
		DockerSockets: c.DockerSockets, ContainerdSocket: c.ContainerdSocket, Capabilities: confined,
	}, discover.Deps{Log: part("discover")})
	if err != nil {
		return nil, err
	}
	lines, err := newLines(c, found, part)
	if err != nil {
		return nil, err
	}
	segments, err := newSegments(c, found, lines.recordings, part)
	if err != nil {
		return nil, err
	}
	listen := make([]mirror.Interface, len(c.Mirrors))
	for i, m := range c.Mirrors {
		listen[i] = mirror.Interface{Name: m.Interface, Unwrap: m.Unwrap}
	}
	mirrors, err := mirror.New(mirror.Config{Interfaces: listen}, mirror.Deps{Records: segments.flows.Observe, Log: part("mirror")})
	if err != nil {
		return nil, err
	}
	ports := make([]collector.Listener, len(c.Collectors))
	for i, l := range c.Collectors {
		ports[i].Address = l.Listen
		if ports[i].From, err = l.exporters(); err != nil {
			return nil, err
		}
	}
	reports, err := collector.New(collector.Config{Listeners: ports}, collector.Deps{Records: segments.flows.Observe, Log: part("collector")})
	if err != nil {
		return nil, err
	}
	id, err := identity.New(identity.Config{Dir: c.StateDir, Controller: c.Controller, TokenFile: c.TokenFile, Role: model.RoleHost, Name: c.Name, Now: clock},
		identity.Deps{Log: part("identity"), Track: lines.own})
	if err != nil {
		return nil, err
	}
	streams, err := transport.New(transport.Config{Listen: c.Listen},
		transport.Deps{Identity: id, Log: part("transport"), Accept: lines.accept, Track: lines.own})
	if err != nil {
		return nil, err
	}
	lines.streams = streams
	watch := newWatch(c, found, segments.traffic)
	probing := probe.Config{Off: c.Probes == "off"}
	asking := probe.Deps{Budget: probe.NewBudget(), Log: part("probe")}
	orders, schedule := probe.NewOrders(probing, asking), probe.NewSchedule(probing, asking)
	rules := monitor.NewRules(watch, schedule.Turns, func(err error) { part("monitor").Warn("look at the machine", "error", err) })
	sync, err := agent.New(agent.Config{Controller: c.Controller, Version: version.Version, Now: clock}, agent.Deps{
		State: state, HTTP: id.HTTPClient(), Inventory: found, Log: part("sync"), Lines: lines.report, Policy: segments, Flows: segments.flows, Samples: sampler{watch}, Captures: lines.recordings, Probes: orders, Turns: schedule.Report, Alerts: rules.Conditions, CallerKey: segments.callerKey.Public(),
		Reconcilers: map[string]agent.Reconciler{
			"transport": func(ctx context.Context, s *wirepb.Section) ([]*wirepb.ItemStatus, error) {
				segments.places.setRelays(s.GetTransport())
				return nil, streams.Apply(ctx, s.GetTransport())
			},
			"deliver": lines.applyDeliver,
			"capture": lines.applyCapture,
			"monitor": func(ctx context.Context, s *wirepb.Section) ([]*wirepb.ItemStatus, error) {
				return nil, rules.Apply(ctx, s.GetMonitor())
			},
			"probe": func(ctx context.Context, s *wirepb.Section) ([]*wirepb.ItemStatus, error) {
				return schedule.Apply(ctx, s.GetProbe())
			},
			"flow":     segments.applyFlow,
			"policy":   segments.applyPolicy,
			"identity": segments.applyIdentity,
		},
		CertificateExpires: func() time.Time {
			if cert := id.Certificate(); cert != nil {
				return cert.NotAfter
			}
			return time.Time{}
		},
		Problem: id.Problem,
		Welcome: func(w *wirepb.Welcome) {
			id.ObserveTime(time.Unix(0, w.UnixNanos))
			if err := id.SetBundle(w.CaBundle); err != nil {
				log.Error("take over the authorities of the controller", "error", err)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	services := []run.Service{
		{Name: "status", Run: newStatusServer(c.StateDir, sync, id.Problem).Run},
		{Name: "discover", Run: found.Run},
		{Name: "identity", Run: id.Run},
		{Name: "transport", Run: streams.Run},
	}
	services = append(services, lines.services()...)
	services = append(services, run.Service{Name: "datapath", Run: segments.Run})
	if len(c.Mirrors) > 0 {
		services = append(services, run.Service{Name: "mirror", Run: mirrors.Run})
	}
	if len(c.Collectors) > 0 {
		services = append(services, run.Service{Name: "collector", Run: reports.Run})
	}
	services = append(services,
		run.Service{Name: "samples", Run: (&sampleServer{sampleSocket(c), watch, part("samples")}).Run},
		run.Service{Name: "probe", Run: schedule.Run},
		run.Service{Name: "monitor", Run: rules.Run})
	return append(services, run.Service{Name: "sync", Run: sync.Run}), nil
}
