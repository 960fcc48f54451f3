package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"weft/controller/access"
	"weft/controller/api"
	"weft/controller/captures"
	"weft/controller/export"
	"weft/controller/filter"
	"weft/controller/flowstore"
	"weft/controller/identity"
	"weft/controller/metrics"
	"weft/controller/notify"
	"weft/controller/observe"
	"weft/controller/pki"
	"weft/controller/plan"
	"weft/controller/probes"
	"weft/controller/samples"
	"weft/controller/session"
	"weft/controller/store"
	"weft/internal/geoip"
	"weft/internal/run"
	"weft/internal/version"
	"weft/model"
)

// controllerOptions are the flags of `weft controller`.
type controllerOptions struct {
	data        string
	etcd        []string
	listen      string
	names       []string
	socket      string
	socketOwner int
	metrics     string
	trustDomain string
	auditFor    time.Duration
	flows       flowstore.Config
	flowsSecret string
	debug       bool
	tokenFile   string
	agentPort   int
	sshFrom     []string
	claims      string
	alertsTo    string
	exportsTo   string
	geoip       []string
}

func newControllerCommand() *cobra.Command {
	var o controllerOptions
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Run the controller: the API, the plan, and the sessions with agents",
		Long: `Run the controller: the API, the plan, and the sessions with agents.

People and agents use one HTTPS port. The first start makes a certificate
authority in the data directory and an admin access token, which is printed
once, or, where the output is no terminal, written to admin.token there. On the
same machine, root uses the Unix socket without a token.`,
		Example: `  weft controller --data /var/lib/weft --name controller.example.org
  weft controller --geoip GeoLite2-Country.mmdb,GeoLite2-ASN.mmdb
  weft controller --data /var/lib/weft --etcd https://10.0.0.1:2379,https://10.0.0.2:2379`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runController(cmd.Context(), cmd.OutOrStdout(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "/var/lib/weft", "directory for the store, keys and certificates")
	f.StringSliceVar(&o.etcd, "etcd", nil, "URLs of an etcd cluster, in place of the embedded store")
	f.StringVar(&o.listen, "listen", ":7443", "address for people and agents, HTTPS")
	f.StringSliceVar(&o.names, "name", nil, "DNS name or address under which agents reach this controller; may be repeated (default: the host's name)")
	f.StringVar(&o.socket, "socket", "/run/weft/api.sock", "Unix socket for the command line; empty for none")
	f.IntVar(&o.socketOwner, "socket-owner", 0, "uid that may use the socket besides root")
	f.StringVar(&o.metrics, "metrics", "", "address for /metrics, plain HTTP; keep it private")
	f.StringVar(&o.trustDomain, "trust-domain", "weft", "trust domain of every identity; cannot be changed later")
	f.StringVar(&o.tokenFile, "token-out", "", "write the first admin token to this new file (0600) in place of printing it; where the output is no terminal: admin.token in the data directory")
	f.DurationVar(&o.auditFor, "audit-keep", 365*24*time.Hour, "how long the audit log is kept; 0 for ever")
	f.DurationVar(&o.flows.Keep, "flows-keep", 7*24*time.Hour, "how long flows are kept as they were reported")
	f.DurationVar(&o.flows.KeepMinutes, "flows-keep-minutes", 30*24*time.Hour, "how long the sums of flows over each minute are kept")
	f.DurationVar(&o.flows.KeepHours, "flows-keep-hours", 400*24*time.Hour, "how long the sums of flows over each hour are kept")
	f.StringVar(&o.flows.ClickHouse, "clickhouse", "", "ClickHouse server that keeps flows in place of the embedded DuckDB, as http://USER@HOST:8123/DATABASE")
	f.StringVar(&o.flowsSecret, "clickhouse-password-file", "", "file with the password of ClickHouse's user")
	f.IntVar(&o.agentPort, "agent-port", 0, "port at which agents reach this controller, where it is not that of --listen; no policy can cut them off from it")
	f.StringSliceVar(&o.sshFrom, "failsafe-ssh-from", nil, "addresses from which no policy can cut off SSH to the hosts, as 10.0.0.0/24")
	f.StringVar(&o.claims, "claims", model.ClaimAny, "keys of the labels that agents may claim where neither the host nor its join token says: any, none, or KEY,…; a * at a key's end takes what begins so")
	f.StringVar(&o.alertsTo, "alerts-to", "", "file that says who is told of alerts: webhooks and Alertmanagers")
	f.StringVar(&o.exportsTo, "export-flows-to", "", "file that says where flows are sent on to: JSON lines, IPFIX, OTLP, Kafka, and sums for --metrics")
	f.StringSliceVar(&o.geoip, "geoip", nil, "MMDB files that say where addresses outside are and whose, as FILE,FILE; read again when they are replaced")
	f.BoolVar(&o.debug, "debug", false, "log more")
	if err := cmd.RegisterFlagCompletionFunc("geoip", cobra.FixedCompletions([]string{"mmdb"}, cobra.ShellCompDirectiveFilterFileExt)); err != nil {
		panic(err) // a flag of that name is above
	}
	return cmd
}

// runController wires the controller. Reading it from top to bottom is reading
// how its parts depend on one another.
func runController(ctx context.Context, out io.Writer, o controllerOptions) error {
	level := slog.LevelInfo
	if o.debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	names, err := serverNames(o.names)
	if err != nil {
		return err
	}
	failsafe, err := o.failsafe()
	if err != nil {
		return err
	}
	claims, err := model.ParseClaims(o.claims)
	if err != nil {
		return fmt.Errorf("--claims: %w", err)
	}
	var receivers []notify.Receiver
	if o.alertsTo != "" {
		if receivers, err = notify.ReadReceivers(o.alertsTo); err != nil {
			return err
		}
	}
	exporting := &export.Settings{}
	if o.exportsTo != "" {
		if exporting, err = export.ReadSettings(o.exportsTo); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	st, err := store.Open(ctx, store.Config{Dir: o.data, Endpoints: o.etcd})
	if err != nil {
		return err
	}
	defer st.Close()
	authority, err := pki.Open(pki.Config{Dir: o.data, TrustDomain: o.trustDomain})
	if err != nil {
		return err
	}
	if err := firstToken(ctx, out, st, authority.Pin(), o.data, o.tokenFile); err != nil {
		return err
	}
	fresh, err := noHosts(ctx, st)
	if err != nil {
		return err
	}
	identities := identity.Open(identity.Config{File: filepath.Join(o.data, "identities.json"), Fresh: fresh, Log: log.With("part", "identity")})
	observer := observe.New(observe.Config{File: filepath.Join(o.data, "observed.json"), Conversations: filepath.Join(o.data, "conversations.json"), Claims: claims},
		observe.Deps{Groups: storedGroups(st), Log: log.With("part", "observe")})
	places, err := geoip.New(geoip.Config{Files: o.geoip}, geoip.Deps{Log: log.With("part", "geoip"),
		Stale: func(file string, since time.Time, message string) {
			observer.GeoIPStale(filepath.Base(file), since, message)
		}})
	if err != nil {
		return fmt.Errorf("--geoip: %w", err)
	}
	flows, err := o.openFlows(ctx, storedGroups(st))
	if err != nil {
		return err
	}
	defer flows.Close()
	ingest := flowstore.NewIngest(flows, observer, places, log.With("part", "flows"))
	exports, err := export.New(export.Config{Dir: filepath.Join(o.data, "exports"), Exporters: exporting.Exporters, Sums: exporting.Metrics},
		export.Deps{Flows: flows, Keep: o.flows.Keep, Stdout: out, Alert: observer.ExportStalled, Log: log.With("part", "exports")})
	if err != nil {
		return err
	}
	looks, captured, probed := samples.New(), captures.New(), probes.New()
	sessions := session.New(session.Config{TrustDomain: o.trustDomain, Version: version.Version, Failsafe: failsafe},
		session.Deps{Store: st, Observer: observer, Authority: authority, Filter: compileFilter, Number: identities.Number, Flows: ingest.Take, Samples: looks, Captures: captured, Probes: probed, Log: log.With("part", "session")})
	alerts, err := notify.New(notify.Config{File: filepath.Join(o.data, "alerts.jsonl"), Receivers: receivers}, notify.Deps{Alerts: observer.Alerts, Changed: observer.Changed, Log: log.With("part", "alerts")})
	if err != nil {
		return err
	}
	rest, err := api.New(api.Config{CAPin: authority.Pin(), SocketUser: o.socketOwner, Failsafe: failsafe}, api.Deps{Store: st, Observer: observer, Flows: flows, Take: ingest, Samples: looks, Captures: captured, Probes: probed, History: alerts.History, Log: log.With("part", "api")})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", rest.Handler())
	mux.Handle(sessions.Handler())
	tlsConfig, err := authority.ServerTLS(names)
	if err != nil {
		return err
	}

	services := []run.Service{
		{Name: "store", Run: watchStore(st)},
		{Name: "audit", Run: pruneAudit(st, o.auditFor, log.With("part", "audit"))},
		{Name: "identities", Run: identities.Run},
		{Name: "observer", Run: observer.Run},
		{Name: "places", Run: places.Run},
		{Name: "flows", Run: ingest.Run},
		{Name: "exports", Run: exports.Run},
		{Name: "planner", Run: sessions.Run},
		{Name: "alerts", Run: alerts.Run},
		{Name: "confirmations", Run: rest.Run},
	}
	if o.socket != "" {
		listen := func() (net.Listener, error) { return listenUnix(o.socket, o.socketOwner) }
		services = append(services, run.Service{Name: "socket", Run: serveAPI(&http.Server{Handler: rest.Handler(), ConnContext: access.ConnContext}, listen)})
	}
	if o.metrics != "" {
		figures := metrics.New(observer, st, ingest, log.With("part", "metrics"))
		services = append(services, run.Service{Name: "metrics", Run: serveHTTP(o.metrics, figures.Handler(exports))})
	}
	listen := func() (net.Listener, error) { return net.Listen("tcp", o.listen) }
	services = append(services, run.Service{Name: "https", Run: serveAPI(&http.Server{Handler: mux, TLSConfig: tlsConfig}, listen)})
	log.Info("controller starts", "version", version.Version, "listen", o.listen, "names", names, "trustDomain", o.trustDomain, "pin", authority.Pin())
	return run.All(ctx, log, services...)
}

func (o *controllerOptions) openFlows(ctx context.Context, groups func(context.Context) ([]*model.Group, error)) (*flowstore.Store, error) {
	cfg := o.flows
	cfg.Dir, cfg.Groups = o.data, groups
	if o.flowsSecret != "" {
		if cfg.ClickHouse == "" {
			return nil, errors.New("--clickhouse-password-file is for --clickhouse")
		}
		secret, err := os.ReadFile(o.flowsSecret)
		if err != nil {
			return nil, fmt.Errorf("read the password of ClickHouse's user: %w", err)
		}
		cfg.Password = strings.TrimSpace(string(secret))
	}
	return flowstore.Open(ctx, cfg)
}

// serverNames are what the controller's certificate is for.
func serverNames(names []string) ([]string, error) {
	if len(names) > 0 {
		return names, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("find this host's name: %w; give --name", err)
	}
	return []string{strings.ToLower(host), "localhost", "127.0.0.1", "::1"}, nil
}

// firstToken makes the first admin token and hands it over once.
func firstToken(ctx context.Context, out io.Writer, st *store.Store, pin, data, file string) error {
	token, created, err := access.Bootstrap(ctx, st, pin)
	if err != nil || !created {
		return err
	}
	if file == "" && !terminal(out) {
		// A secret is not for a log or a journal.
		file = filepath.Join(data, "admin.token")
	}
	if file != "" {
		fmt.Fprintf(out, "The first admin token is in %s; use it with: weft login URL --token-file FILE, and remove the file\n", file)
		f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("write the first admin token: %w", err)
		}
		_, err = fmt.Fprintln(f, token)
		return errors.Join(err, f.Close())
	}
	fmt.Fprintf(out, "The first admin token, shown this once:\n\n  %s\n\nUse it with: weft login URL --token-file FILE\n\n", token)
	return nil
}

// terminal says whether what is written is seen by a person and kept nowhere.
func terminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func compileFilter(expression string) (plan.Filter, error) {
	p, err := filter.Compile(expression)
	return plan.Filter{Ethernet: p.Ethernet, Raw: p.Raw}, err
}

func storedGroups(st *store.Store) func(context.Context) ([]*model.Group, error) {
	return func(ctx context.Context) ([]*model.Group, error) {
		list, _, err := st.List(ctx, model.KindGroup)
		if err != nil {
			return nil, err
		}
		groups := make([]*model.Group, len(list))
		for i, r := range list {
			groups[i] = r.(*model.Group)
		}
		return groups, nil
	}
}

// watchStore stops the controller when its store has failed.
func watchStore(st *store.Store) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		ready()
		select {
		case <-ctx.Done():
			return nil
		case err := <-st.Dead():
			return fmt.Errorf("store has failed: %w", err)
		}
	}
}

// pruneAudit forgets audit entries that are older than keep, once an hour.
func pruneAudit(st *store.Store, keep time.Duration, log *slog.Logger) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		ready()
		if keep <= 0 {
			<-ctx.Done()
			return nil
		}
		for {
			if n, err := st.PruneAudit(ctx, time.Now().Add(-keep)); err != nil && ctx.Err() == nil {
				log.Warn("prune audit log", "error", err)
			} else if n > 0 {
				log.Info("audit log pruned", "entries", n, "olderThan", keep)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Hour):
			}
		}
	}
}
