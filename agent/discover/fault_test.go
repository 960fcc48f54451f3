package discover

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft/wire/wirepb"
)

// engineFake is a socket that behaves as it is told, from one connection or
// question to the next.
type engineFake struct {
	t       *testing.T
	socket  string
	server  *http.Server
	healthy http.Handler
	sick    atomic.Pointer[http.HandlerFunc]
}

func newEngineFake(t *testing.T, name string, healthy http.Handler) *engineFake {
	dir, err := os.MkdirTemp("", "weft")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	e := &engineFake{t: t, socket: filepath.Join(dir, name), healthy: healthy}
	e.start()
	t.Cleanup(e.stop)
	return e
}

func (e *engineFake) start() {
	e.t.Helper()
	l, err := net.Listen("unix", e.socket)
	if err != nil {
		e.t.Fatal(err)
	}
	e.server = &http.Server{Handler: e}
	e.server.Protocols = new(http.Protocols)
	e.server.Protocols.SetHTTP1(true)
	e.server.Protocols.SetUnencryptedHTTP2(true)
	go e.server.Serve(l)
}

// stop hangs up on everybody and takes the socket away.
func (e *engineFake) stop() { e.server.Close() }

func (e *engineFake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if sick := e.sick.Load(); sick != nil {
		(*sick)(w, r)
		return
	}
	e.healthy.ServeHTTP(w, r)
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// endless answers without end.
func endless(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	page := []byte(`[{"Id":"` + strings.Repeat("a", 1<<20))
	for r.Context().Err() == nil {
		if _, err := w.Write(page); err != nil {
			return
		}
	}
}

// drip answers a byte at a time: never late, never done.
func drip(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	for r.Context().Err() == nil {
		fmt.Fprint(w, " ")
		w.(http.Flusher).Flush()
		time.Sleep(10 * time.Millisecond)
	}
}

func garbage(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>\x00\xff") }

func refuse(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }

// A healthy engine of each API that has one container.
var healthyDocker = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/containers/json":
		fmt.Fprintf(w, `[{"Id":%q,"Names":["/web"],"Image":"nginx:1","Labels":{"app":"web"}}]`, strings.Repeat("0a", 32))
	case "/events":
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	default:
		http.NotFound(w, r)
	}
})

var healthyContainerd = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body := append(field(1, []byte(strings.Repeat("0a", 32))), label("app", "web")...)
	answer := map[string][]byte{
		"/containerd.services.namespaces.v1.Namespaces/List": field(1, field(1, []byte("default"))),
		"/containerd.services.containers.v1.Containers/List": field(1, append(body, field(3, []byte("nginx:1"))...)),
	}[r.URL.Path]
	if answer == nil { // the event stream
		<-r.Context().Done()
		return
	}
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	w.Write(append([]byte{0, 0, 0, byte(len(answer) >> 8), byte(len(answer))}, answer...))
	w.Header().Set("Grpc-Status", "0")
})

// Whatever an engine does, discovery goes on with what it has heard, says what
// is wrong, and is well again when the engine is.
func TestEnginesThatMisbehave(t *testing.T) {
	id := strings.Repeat("0a", 32)
	for _, engine := range []struct {
		name    string
		healthy http.Handler
		watch   func(d *Discover, ctx context.Context, socket string)
	}{
		{"docker", healthyDocker, (*Discover).watchDocker},
		{"containerd", healthyContainerd, (*Discover).watchContainerd},
	} {
		t.Run(engine.name, func(t *testing.T) {
			t.Parallel()
			fake := newEngineFake(t, engine.name+".sock", engine.healthy)
			d := newTestDiscover(t, Config{})
			d.timing = timing{timeout: 300 * time.Millisecond, retry: 20 * time.Millisecond, refresh: 50 * time.Millisecond}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); engine.watch(d, ctx, fake.socket) }()
			defer func() { cancel(); <-done }()
			capability := func() string {
				d.parts.mu.Lock()
				defer d.parts.mu.Unlock()
				return d.parts.troubs["discover."+engine.name]
			}
			says := func(want string) {
				t.Helper()
				for end := time.Now().Add(10 * time.Second); !strings.Contains(capability(), want); time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("capability is %q, want %q", capability(), want)
					}
				}
			}
			known := func() {
				t.Helper()
				if c := d.engineContainer(id, ""); c.image != "nginx:1" || c.labels["app"] != "web" {
					t.Errorf("the container has become %+v", c)
				}
			}
			says("yes")
			known()
			for _, fault := range []struct {
				name, want string
				handler    http.HandlerFunc
			}{
				{"hang", "does not answer within 300ms", hang},
				{"garbage", "unknown: ", garbage},
				{"drip", "does not answer within 300ms", drip},
				{"refuse", "unknown: ", refuse},
				{"endless", "unknown: ", endless},
			} {
				fake.sick.Store(&fault.handler)
				says(fault.want)
				t.Logf("%s: %s", fault.name, capability())
				known()
				fake.sick.Store(nil)
				says("yes")
				known()
			}
			fake.stop()
			says("no: " + fake.socket + " is not there")
			known()
			if err := os.WriteFile(fake.socket, nil, 0o600); err != nil { // a socket nobody listens on looks so too
				t.Fatal(err)
			}
			says("no: nobody listens on")
			os.Remove(fake.socket)
			fake.start()
			says("yes")
			known()
		})
	}
}

// An engine that answers all but the call for events is given up too.
func TestEventStreamThatDoesNotBegin(t *testing.T) {
	fake := newEngineFake(t, "docker.sock", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/events" {
			hang(w, r)
			return
		}
		healthyDocker(w, r)
	}))
	d := newTestDiscover(t, Config{})
	d.timing = timing{timeout: 100 * time.Millisecond, retry: time.Hour, refresh: time.Hour}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	d.watchDocker(ctx, fake.socket)
	if got := d.parts.troubs["discover.docker"]; !strings.Contains(got, "does not answer within 100ms") {
		t.Errorf("capability is %q", got)
	}
}

// A container that the tree shows and the engine has not named is asked for,
// though no event tells of it.
func TestUnknownContainerIsAskedFor(t *testing.T) {
	id := strings.Repeat("0b", 32)
	var there atomic.Bool
	fake := newEngineFake(t, "docker.sock", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/containers/json" && there.Load() {
			fmt.Fprintf(w, `[{"Id":%q,"Names":["/late"],"Image":"nginx:1"}]`, id)
			return
		}
		healthyDocker(w, r)
	}))
	d := newTestDiscover(t, Config{})
	d.timing.refresh = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); d.watchDocker(ctx, fake.socket) }()
	defer func() { cancel(); <-done }()
	waitEngine(t, d, strings.Repeat("0a", 32), func(c container) bool { return c.name == "web" })
	time.Sleep(100 * time.Millisecond) // it waits for events now
	there.Store(true)
	d.publish(&wirepb.HostFacts{}, []*wirepb.Workload{{Id: id, Kind: "container", ContainerRuntime: "docker"}})
	waitEngine(t, d, id, func(c container) bool { return c.name == "late" })
}

// A stream of events may say anything at any length.
func TestEventStreamOfGarbage(t *testing.T) {
	var asked atomic.Int32
	fake := newEngineFake(t, "docker.sock", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/events" {
			asked.Add(1)
			healthyDocker(w, r)
			return
		}
		for range 100 {
			fmt.Fprintln(w, `{"Action":"start"`, "\x00 not JSON")
		}
		w.(http.Flusher).Flush()
		line := strings.Repeat("x", 1<<16)
		for range 64 { // 4 MiB without an end of line: the stream is given up
			if _, err := fmt.Fprint(w, line); err != nil {
				return
			}
		}
		<-r.Context().Done()
	}))
	d := newTestDiscover(t, Config{})
	d.timing = timing{timeout: time.Second, retry: 50 * time.Millisecond, refresh: time.Hour}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	d.watchDocker(ctx, fake.socket)
	if c := d.engineContainer(strings.Repeat("0a", 32), ""); c.name != "web" {
		t.Errorf("container: %+v", c)
	}
	// Asked its version and its list once in each round of 100 ms and more.
	if n := asked.Load(); n < 4 || n > 25 {
		t.Errorf("the engine was asked %d times in a second", n)
	}
}

// procTree is a cgroup tree and a /proc of a test's own, to walk without root.
type procTree struct {
	t          *testing.T
	root, proc string
	pid        int
}

// run puts a process into a cgroup, in the agent's network namespace or another.
func (p *procTree) run(cgroup, netns string) {
	p.t.Helper()
	p.pid++
	dir, ns := filepath.Join(p.root, cgroup), filepath.Join(p.proc, fmt.Sprint(p.pid), "ns")
	for _, d := range []string{dir, ns} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/cgroup.procs", fmt.Appendln(nil, p.pid), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Symlink(netns, ns+"/net"); err != nil {
		p.t.Fatal(err)
	}
}

// The trees that engines make on stock systems, and what is found in them.
func TestTreesOfEngines(t *testing.T) {
	a, b, pod := strings.Repeat("aa", 32), strings.Repeat("bb", 32), strings.Repeat("9d", 32)
	const own, other = "net:[1]", "net:[2]"
	for name, tree := range map[string]struct {
		run   map[string]string // cgroup: namespace
		known []string
		want  []string // kind, id or path, and whether its network is its own; sorted
	}{
		"podman pod, cgroupfs": {run: map[string]string{
			"libpod_parent/conmon": own, "libpod_parent/" + pod + "/libpod-" + a: other, "libpod_parent/" + pod + "/libpod-" + b: other,
		}, want: []string{"container " + a + " true", "container " + b + " true"}},
		"podman pod, systemd": {run: map[string]string{
			"machine.slice/libpod-conmon-" + a + ".scope": own, "machine.slice/machine-libpod_pod_" + pod + ".slice/libpod-" + a + ".scope/container": other,
		}, want: []string{"container " + a + " true"}},
		"podman in a unit": {run: map[string]string{
			"system.slice/web.service/libpod-payload-" + a: other, "system.slice/web.service/runtime": own,
		}, want: []string{"container " + a + " true", "unit /system.slice/web.service false"}},
		"podman in a unit without a monitor": {run: map[string]string{"system.slice/web.service/libpod-payload-" + a: other},
			want: []string{"container " + a + " true"}},
		"docker in docker": {run: map[string]string{
			"system.slice/docker.service": own, "system.slice/docker-" + a + ".scope/init": other, "system.slice/docker-" + a + ".scope/docker/" + b: "net:[3]",
		}, want: []string{"container " + a + " true", "unit /system.slice/docker.service false"}},
		"kubernetes, host network": {run: map[string]string{
			"kubepods.slice/kubepods-podx.slice/cri-containerd-" + a + ".scope": own, "kubepods.slice/kubepods-pody.slice/crio-" + b + ".scope": other, "kubepods.slice/kubepods-pody.slice/crio-conmon-" + b + ".scope": own,
		}, want: []string{"container " + a + " false", "container " + b + " true"}},
		"named by containerd": {run: map[string]string{"default/web": own, "default/plain": own}, known: []string{"/default/web"},
			want: []string{"container /default/web false"}},
		"lxc": {run: map[string]string{"lxc.payload.web/init.scope": other, "lxc.payload.web/system.slice/nginx.service": other, "lxc.monitor.web": own},
			want: []string{"container /lxc.payload.web true"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := &procTree{t: t, root: t.TempDir(), proc: t.TempDir()}
			for cgroup, netns := range tree.run {
				p.run(cgroup, netns)
			}
			w := &walker{root: p.root, proc: p.proc, own: own, known: map[string]bool{}}
			for _, path := range tree.known {
				w.known[path] = true
			}
			w.walk("/", 0)
			var got []string
			for _, g := range w.out {
				id := g.id
				if id == "" {
					id = g.path
				}
				got = append(got, fmt.Sprintf("%s %s %v", g.kind, id, g.foreign))
			}
			slices.Sort(got)
			if strings.Join(got, "\n") != strings.Join(tree.want, "\n") {
				t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tree.want, "\n"))
			}
		})
	}
}
