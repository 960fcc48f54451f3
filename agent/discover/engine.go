package discover

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path"
	"reflect"
	"strings"
	"time"
)

// container is what an engine knows of a container.
type container struct {
	name, image, runtime string
	labels               map[string]string
}

const (
	engineTimeout = 5 * time.Second
	engineRetry   = 5 * time.Second
	// engineRefresh catches what an event stream did not tell.
	engineRefresh = time.Minute
	maxEngineBody = 64 << 20
)

// engineContainer finds a container in whatever engine knows it.
func (d *Discover) engineContainer(id string) container {
	if id == "" {
		return container{}
	}
	d.parts.mu.Lock()
	defer d.parts.mu.Unlock()
	var best container
	for _, known := range d.parts.engines {
		// Docker's containers are containerd's too, which knows no name.
		if c, ok := known[id]; ok && (best.name == "" || c.name != "" && c.runtime != "containerd") {
			best = c
		}
	}
	return best
}

func (d *Discover) setEngine(socket string, known map[string]container) {
	d.parts.mu.Lock()
	changed := !maps.EqualFunc(d.parts.engines[socket], known, func(a, b container) bool { return reflect.DeepEqual(a, b) })
	d.parts.engines[socket] = known
	d.parts.mu.Unlock()
	if changed {
		d.hear()
	}
}

// keepEngine follows one engine: follow lists its containers and then waits
// for events until it breaks. A socket that is not there is looked for again.
func (d *Discover) keepEngine(ctx context.Context, capability, socket string, follow func(context.Context) error) {
	for ctx.Err() == nil {
		_, err := os.Stat(socket)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			d.say(capability, "no: "+socket+" is not there")
		case err == nil:
			err = follow(ctx)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
			d.say(capability, "unknown: "+err.Error())
		}
		if err != nil {
			d.setEngine(socket, nil)
		}
		select {
		case <-ctx.Done():
		case <-time.After(engineRetry):
		}
	}
}

// docker speaks the Docker Engine API, which Podman serves too, over a Unix
// socket. https://docs.docker.com/reference/api/engine/
type docker struct {
	client  *http.Client
	runtime string
}

func newDocker(socket string) *docker {
	runtime := "docker"
	if strings.Contains(path.Base(socket), "podman") {
		runtime = "podman"
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &docker{client: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConns: 2}}, runtime: runtime}
}

func (d *Discover) watchDocker(ctx context.Context, socket string) {
	e := newDocker(socket)
	defer e.client.CloseIdleConnections()
	capability := "discover." + e.runtime
	d.keepEngine(ctx, capability, socket, func(ctx context.Context) error { return d.followDocker(ctx, e, capability, socket) })
}

// followDocker opens the event stream before it lists, so that nothing falls
// between the two, and lists again at each event and once a minute.
func (d *Discover) followDocker(ctx context.Context, e *docker, capability, socket string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := e.events(ctx)
	if err != nil {
		return err
	}
	refresh := time.NewTicker(engineRefresh)
	defer refresh.Stop()
	for {
		known, err := e.list(ctx)
		if err != nil {
			return err
		}
		d.setEngine(socket, known)
		d.say(capability, "yes")
		select {
		case <-ctx.Done():
			return nil
		case <-refresh.C:
		case err, open := <-events:
			if !open {
				return errors.New("event stream ended")
			}
			if err != nil {
				return err
			}
		}
	}
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

func (e *docker) list(ctx context.Context) (map[string]container, error) {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	resp, err := e.get(ctx, "/containers/json") // running ones; no version: the engine's own
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxEngineBody))
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
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
		if !hexID.MatchString(c.ID) {
			continue
		}
		k := container{image: c.Image, runtime: runtime, labels: c.Labels}
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
		lines.Buffer(nil, 1<<20)
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
