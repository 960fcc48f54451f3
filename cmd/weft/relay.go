package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"weft/internal/identity"
	"weft/internal/run"
	"weft/model"
	"weft/relay"
)

// relayOptions are the flags of `weft relay`.
type relayOptions struct {
	controller string
	tokenFile  string
	name       string
	data       string
	advertise  []string
	metrics    string
	debug      bool
	relay      relay.Config
}

func newRelayCommand() *cobra.Command {
	var o relayOptions
	cmd := &cobra.Command{
		Use:   "relay",
		Short: "Forward streams between agents that cannot reach one another",
		Long: `Forward streams between agents that cannot reach one another.

Agents dial out to the relay, so it needs a public address and one TCP port;
they need none. It joins once, with a join token of role relay, and renews its
certificate by itself. What it forwards is encrypted between the agents: it
sees who talks to whom, when and how much, and nothing else.`,
		Example: `  weft relay --controller https://controller.example.org:8443 --token-file token \
    --listen :443 --advertise relay.example.org:443 --data /var/lib/weft-relay`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			services, log, err := buildRelay(o)
			if err != nil {
				return err
			}
			return run.All(cmd.Context(), log, services...)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.controller, "controller", "", "the controller, https://HOST:PORT (required)")
	f.StringVar(&o.tokenFile, "token-file", "", "file with a join token of role relay; needed for the first start")
	f.StringVar(&o.name, "name", "", "name of this relay (default: the host's name)")
	f.StringVar(&o.data, "data", "/var/lib/weft-relay", "directory for key and certificate")
	f.StringVar(&o.relay.Listen, "listen", ":443", "address for agents")
	f.StringSliceVar(&o.advertise, "advertise", nil, "HOST:PORT where agents reach this relay; may be repeated (required)")
	f.StringVar(&o.metrics, "metrics", "", "address for /metrics and /healthz, plain HTTP; keep it private")
	f.IntVar(&o.relay.MaxStreams, "max-streams", 4096, "streams at most; each holds up to 2 MiB where both readers are slow")
	f.IntVar(&o.relay.MaxStreamsPerAgent, "max-streams-per-agent", 512, "streams that one agent may open, and that may lead to it")
	f.IntVar(&o.relay.MaxSessions, "max-agents", 4096, "agents at most")
	f.DurationVar(&o.relay.Idle, "idle", 15*time.Minute, "end streams that carried nothing for so long")
	f.BoolVar(&o.debug, "debug", false, "log each agent and stream")
	for _, name := range []string{"controller", "advertise"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined above
		}
	}
	return cmd
}

// buildRelay wires the relay: who it is, what it forwards, whom it reports to.
func buildRelay(o relayOptions) ([]run.Service, *slog.Logger, error) {
	level := slog.LevelInfo
	if o.debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if o.name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, nil, fmt.Errorf("find this host's name: %w; give --name", err)
		}
		o.name = strings.ToLower(host)
	}
	for _, address := range o.advertise {
		if host, _, err := net.SplitHostPort(address); err != nil || host == "" {
			return nil, nil, fmt.Errorf("--advertise %q: want HOST:PORT, as agents will dial it", address)
		}
	}
	id, err := identity.New(identity.Config{
		Dir: o.data, Controller: o.controller, TokenFile: o.tokenFile, Role: model.RoleRelay, Name: o.name, Addresses: o.advertise,
	}, identity.Deps{Log: log.With("part", "identity")})
	if err != nil {
		return nil, nil, err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r, err := relay.New(o.relay, relay.Deps{Identity: id, Log: log.With("part", "relay"), Registry: registry})
	if err != nil {
		return nil, nil, err
	}
	services := []run.Service{
		{Name: "identity", Run: id.Run},
		{Name: "relay", Run: r.Run},
		{Name: "control", Run: func(ctx context.Context, ready func()) error { return r.RunControl(ctx, o.controller, ready) }},
	}
	if o.metrics != "" {
		services = append(services, run.Service{Name: "metrics", Run: serveHTTP(o.metrics, r.Handler(registry))})
	}
	return services, log, nil
}

// serveHTTP serves plain HTTP until ctx ends.
func serveHTTP(address string, handler http.Handler) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("listen for metrics: %w", err)
		}
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
		stop := context.AfterFunc(ctx, func() { server.Close() })
		defer stop()
		ready()
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}
