package discover

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"weft/internal/cgroup"
	"weft/model"
)

// docker speaks the Docker Engine API, which Podman serves too, over a Unix
// socket. https://docs.docker.com/reference/api/engine/
type docker struct {
	client  *http.Client
	runtime string
	timeout time.Duration // of one answer, and of the beginning of the event stream
}

func newDocker(socket string, timeout time.Duration) *docker {
	runtime := "docker"
	if strings.Contains(path.Base(socket), "podman") {
		runtime = "podman"
	}
	return &docker{runtime: runtime, timeout: timeout, client: &http.Client{Transport: &http.Transport{
		DialContext: dialEngine(socket, timeout), MaxIdleConns: 2, ResponseHeaderTimeout: timeout}}}
}

func (d *Discover) watchDocker(ctx context.Context, socket string) {
	e := newDocker(socket, d.timing.timeout)
	defer e.client.CloseIdleConnections()
	capability := "discover." + e.runtime // as the socket is called, though another may serve it
	d.keepEngine(ctx, capability, socket, func(ctx context.Context) error { return d.followDocker(ctx, e, capability, socket) })
}

// followDocker opens the event stream before it lists, so that nothing falls
// between the two. It lists again at each event, when the cgroup tree shows a
// container that it has not heard of, and once a minute.
func (d *Discover) followDocker(ctx context.Context, e *docker, capability, socket string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := e.identify(ctx); isTimeout(err) {
		return err // else go by the socket's name: a proxy may keep this one question from us
	}
	events, err := e.events(ctx)
	if err != nil {
		return err
	}
	refresh := time.NewTicker(d.timing.refresh)
	defer refresh.Stop()
	for {
		began := time.Now()
		changed := d.Changed() // before listing: what comes now is asked for next
		known, err := e.list(ctx)
		if err != nil {
			return err
		}
		d.setEngine(socket, known)
		d.say(capability, "yes")
		pace(ctx, time.Since(began))
		for wait := true; wait; {
			select {
			case <-ctx.Done():
				return nil
			case <-refresh.C:
				wait = false
			case <-changed:
				changed = d.Changed()
				wait = !d.lacks(known, e.runtime)
			case err, open := <-events:
				if !open {
					return errors.New("event stream ended")
				}
				if err != nil {
					return err
				}
				wait = false
				d.hear() // a container that has started has its namespaces, which else makes no sound
			}
		}
	}
}

// lacks says whether a container of the runtime runs that is not known.
func (d *Discover) lacks(known map[string]container, runtime string) bool {
	_, workloads := d.Snapshot()
	for _, w := range workloads {
		if _, ok := known[w.Id]; !ok && w.Kind == string(model.WorkloadContainer) && w.ContainerRuntime == runtime {
			return true
		}
	}
	return false
}

func (e *docker) get(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("get %s: %s", path, resp.Status)
	}
	return resp, nil
}

// identify asks who serves the socket: Podman often serves Docker's.
func (e *docker) identify(ctx context.Context) error {
	body, err := e.read(ctx, "/version")
	if err != nil {
		return err
	}
	runtime, err := parseVersion(body)
	if err == nil {
		e.runtime = runtime
	}
	return err
}

func parseVersion(body []byte) (runtime string, err error) {
	var version struct{ Components []struct{ Name string } }
	if err := json.Unmarshal(body, &version); err != nil {
		return "", fmt.Errorf("decode version of the engine: %w", err)
	}
	for _, c := range version.Components {
		if strings.HasPrefix(c.Name, "Podman") {
			return "podman", nil
		}
	}
	return "docker", nil
}

// read gets a whole answer, bounded in time and size.
func (e *docker) read(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	resp, err := e.get(ctx, path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return readBounded(resp.Body, "get "+path)
}

func (e *docker) list(ctx context.Context) (map[string]container, error) {
	body, err := e.read(ctx, "/containers/json") // running ones; no version: the engine's own
	if err != nil {
		return nil, err
	}
	return parseDocker(body, e.runtime)
}

func parseDocker(body []byte, runtime string) (map[string]container, error) {
	var list []struct {
		ID     string `json:"Id"`
		Names  []string
		Image  string
		Labels map[string]string
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("decode list of containers: %w", err)
	}
	out := map[string]container{}
	for _, c := range list {
		if !cgroup.ContainerID(c.ID) {
			continue
		}
		k := container{id: c.ID, image: c.Image, runtime: runtime, labels: c.Labels}
		if len(c.Names) > 0 {
			k.name = strings.TrimPrefix(c.Names[0], "/")
		}
		out[c.ID] = k
	}
	return out, nil
}

// events yields nil for whatever happens to a container, gathered while nobody
// listens, and is closed when the stream ends.
func (e *docker) events(ctx context.Context) (<-chan error, error) {
	resp, err := e.get(ctx, "/events?filters=%7B%22type%22%3A%5B%22container%22%5D%7D") // {"type":["container"]}
	if err != nil {
		return nil, err
	}
	out := make(chan error, 1)
	go func() {
		defer close(out)
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20) // a longer one ends the stream
		for lines.Scan() {
			if !tellsOfChange(lines.Bytes()) {
				continue
			}
			select {
			case out <- nil:
			default:
			}
		}
	}()
	return out, nil
}

// tellsOfChange says whether an event can change the list: not a health check,
// of which there are many.
func tellsOfChange(line []byte) bool {
	var e struct{ Action, Status string }
	if json.Unmarshal(line, &e) != nil {
		return false
	}
	action := e.Action
	if action == "" {
		action = e.Status
	}
	switch action {
	case "start", "die", "rename", "destroy", "update", "died", "remove":
		return true
	}
	return false
}
