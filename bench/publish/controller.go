package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"weft/bench/scale"
	"weft/controller/identity"
	"weft/controller/observe"
	"weft/controller/pki"
	"weft/controller/session"
	"weft/controller/store"
	"weft/model"
	"weft/policy"
	"weft/wire"
)

const trustDomain = "weft.bench"

// controller is the parts of one that a policy passes through.
type controller struct {
	authority *pki.Authority
	store     *store.Store
	observer  *observe.Observer
	sessions  *session.Service
	server    *http.Server
	address   string
	running   sync.WaitGroup
	end       context.CancelFunc
	dir       string
	child     *exec.Cmd
	letGo     io.Closer

	// What agents have acknowledged: sections of identity or policy that are new.
	acks, bytes atomic.Int64
	target      atomic.Int64
	acked       chan struct{}
	halfway     atomic.Int64 // unix nanoseconds
}

func start(ctx context.Context, dir string) (*controller, error) {
	c := &controller{dir: dir, acked: make(chan struct{}, 1)}
	var err error
	if c.authority, err = pki.Open(pki.Config{Dir: dir, TrustDomain: trustDomain, Name: "controller"}); err != nil {
		return nil, err
	}
	if c.store, err = store.Open(ctx, store.Config{Dir: filepath.Join(dir, "store")}); err != nil {
		return nil, err
	}
	c.observer = observe.New(observe.Config{}, observe.Deps{})
	numbers := identity.Open(identity.Config{File: filepath.Join(dir, "identities.json"), Fresh: true})
	c.sessions = session.New(session.Config{TrustDomain: trustDomain, Version: "bench", Heartbeat: time.Minute, Failsafe: policy.FailsafeOptions{ControllerPort: 7443}},
		session.Deps{Store: c.store, Observer: c.observer, Authority: c.authority, Number: numbers.Number})
	tlsConfig, err := c.authority.ServerTLS([]string{"localhost", "127.0.0.1"})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(c.sessions.Handler())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c.address = listener.Addr().String()
	c.server = &http.Server{Handler: mux, TLSConfig: tlsConfig, ErrorLog: log.New(io.Discard, "", 0)}
	ctx, c.end = context.WithCancel(ctx)
	ready := make(chan struct{})
	c.running.Go(func() { _ = c.sessions.Run(ctx, func() { close(ready) }) })
	c.running.Go(func() { _ = c.server.ServeTLS(listener, "", "") })
	<-ready
	return c, nil
}

func (c *controller) stop() {
	if c.child != nil {
		_ = c.letGo.Close()
		_ = c.child.Wait()
	}
	c.end()
	_ = c.server.Close()
	c.running.Wait()
	_ = c.store.Close()
}

// join stores so many hosts and their policies, and brings up an agent for each.
func (c *controller) join(ctx context.Context, n int) (time.Duration, error) {
	by := store.Change{Actor: "bench"}
	var all []model.Resource
	for i := range 100 {
		all = append(all, scale.Policy(fmt.Sprintf("part-%d", i), fmt.Sprintf("part=p%d,role=r0", i), fmt.Sprintf("part=p%d,role=r1", i), 80))
	}
	all = append(all, scale.Policy("all", "app=all", "role=monitor", 81))
	hosts := make([]*model.Host, n)
	for i := range hosts {
		hosts[i] = model.MustKind(model.KindHost).New().(*model.Host)
		hosts[i].Metadata = model.Metadata{Name: scale.HostName(i)}
		all = append(all, hosts[i])
	}
	if err := spread(len(all), func(i int) error { return c.store.Create(ctx, by, all[i], nil) }); err != nil {
		return 0, err
	}
	c.target.Store(int64(n))
	begin := time.Now()
	if err := c.bring(ctx, hosts); err != nil {
		return 0, err
	}
	// Workloads are reported one host after another, and most reports concern
	// others: wait until everybody has what the last plan says.
	for quiet := 0; quiet < 20; {
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
		if before := c.acks.Swap(0); before == 0 && c.has("all", n) {
			quiet++
		} else {
			quiet = 0
		}
	}
	return time.Since(begin) - 2*time.Second, nil
}

// spread does n things, 32 at a time.
func spread(n int, do func(i int) error) error {
	var wg sync.WaitGroup
	next, errs := atomic.Int64{}, make([]error, 32)
	for w := range errs {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && errs[w] == nil; i = int(next.Add(1)) - 1 {
				errs[w] = do(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// has says whether a policy is acknowledged by so many hosts, as a person is told.
func (c *controller) has(name string, hosts int) bool {
	r, err := c.store.Get(context.Background(), model.KindPolicy, name)
	if err != nil {
		return false
	}
	st := c.observer.PolicyStatus(r.(*model.Policy))
	return st.Applied == hosts && st.Targeted == hosts
}

// outcome is what a change took.
type outcome struct {
	planned, half, all time.Duration
	cpu, bytes         float64
}

// publish writes a policy anew and waits until all that it touches have it.
func (c *controller) publish(ctx context.Context, name string, port, touched int) (*outcome, error) {
	r, err := c.store.Get(ctx, model.KindPolicy, name)
	if err != nil {
		return nil, err
	}
	p := r.(*model.Policy)
	p.Spec.Ingress[0].Ports[0].Port = &port
	c.acks.Store(0)
	c.bytes.Store(0)
	c.halfway.Store(0)
	c.target.Store(int64(touched))
	select {
	case <-c.acked:
	default:
	}
	out := &outcome{}
	planned := c.observer.Changed()
	cpu, begin := c.used(), time.Now()
	if err := c.store.Update(ctx, store.Change{Actor: "bench"}, p); err != nil {
		return nil, err
	}
	select {
	case <-planned:
		out.planned = time.Since(begin)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-c.acked:
	case <-time.After(2 * time.Minute):
		return nil, fmt.Errorf("%d of %d acknowledgements after two minutes", c.acks.Load(), touched)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for !c.has(name, touched) {
		if err := sleep(ctx, time.Millisecond); err != nil {
			return nil, err
		}
	}
	out.all, out.cpu = time.Since(begin), c.used()-cpu
	out.half = time.Unix(0, c.halfway.Load()).Sub(begin)
	out.bytes = float64(c.bytes.Load()) / float64(touched)
	return out, sleep(ctx, time.Second)
}

// note counts an agent that has put a change of policy into force.
func (c *controller) note() {
	n, target := c.acks.Add(1), c.target.Load()
	if n == (target+1)/2 {
		c.halfway.Store(time.Now().UnixNano())
	}
	if n == target {
		select {
		case c.acked <- struct{}{}:
		default:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func identityOf(h *model.Host) wire.Identity {
	return wire.Identity{TrustDomain: trustDomain, Role: model.RoleHost, Name: h.Metadata.Name, UID: h.Metadata.UID}
}
