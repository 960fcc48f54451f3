package discover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"reflect"
	"slices"
	"syscall"
	"time"
)

// container is what an engine knows of a container.
type container struct {
	id                   string
	name, image, runtime string
	cgroup               string // its path, where the engine tells it and its id does not
	labels               map[string]string
}

// timing of talks with engines.
type timing struct {
	timeout time.Duration // of one answer
	retry   time.Duration // until one that is not there, or broke, is looked for again
	refresh time.Duration // until it is asked again though nothing was heard
}

var usualTiming = timing{timeout: 5 * time.Second, retry: time.Second, refresh: time.Minute}

// maxEngineBody bounds one answer, in bytes.
const maxEngineBody = 32 << 20

// engineContainer finds a container in whatever engine knows it, by its id or,
// where the path does not tell that, by its cgroup.
func (d *Discover) engineContainer(id, cgroup string) container {
	d.parts.mu.Lock()
	defer d.parts.mu.Unlock()
	var best container
	// In order, so that two that know the same give the same answer each time.
	for _, socket := range slices.Sorted(maps.Keys(d.parts.engines)) {
		known := d.parts.engines[socket]
		c, ok := known[id]
		if id == "" {
			c, ok = known[cgroup]
		}
		// Docker's containers are containerd's too, which knows no name.
		if ok && (best.id == "" || best.runtime == "containerd" && c.runtime != "containerd") {
			best = c
		}
	}
	return best
}

// engineCgroups are the cgroups of containers that no path tells to be ones.
func (d *Discover) engineCgroups() map[string]bool {
	d.parts.mu.Lock()
	defer d.parts.mu.Unlock()
	out := map[string]bool{}
	for _, known := range d.parts.engines {
		for key, c := range known {
			if key == c.cgroup {
				out[key] = true
			}
		}
	}
	return out
}

func (d *Discover) setEngine(socket string, known map[string]container) {
	d.parts.mu.Lock()
	changed := !maps.EqualFunc(d.parts.engines[socket], known, func(a, b container) bool { return reflect.DeepEqual(a, b) })
	d.parts.engines[socket] = known
	d.parts.mu.Unlock()
	d.first.heard(socket)
	if changed {
		d.hear()
	}
}

// keepEngine follows one engine: follow lists its containers and then waits
// for events until it breaks. A socket that is not there is looked for again.
// What an engine has said of containers stays true while it is away: they run
// on without it, and their taps with them.
func (d *Discover) keepEngine(ctx context.Context, capability, socket string, follow func(context.Context) error) {
	for ctx.Err() == nil {
		_, err := os.Stat(socket)
		if err == nil {
			err = follow(ctx)
		}
		if err != nil && ctx.Err() == nil {
			d.say(capability, d.engineTrouble(socket, err))
			d.first.heard(socket)
		}
		select {
		case <-ctx.Done():
		case <-time.After(d.timing.retry):
		}
	}
}

// engineTrouble says why an engine cannot be asked.
func (d *Discover) engineTrouble(socket string, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no: " + socket + " is not there"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "no: nobody listens on " + socket
	case isTimeout(err):
		return "unknown: " + socket + " does not answer within " + d.timing.timeout.String()
	}
	return "unknown: " + socket + ": " + err.Error()
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// pace waits after a list that took so long: asking is to cost the engine a
// third of one core at most, and a burst of events is one change.
func pace(ctx context.Context, took time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(min(max(2*took, 50*time.Millisecond), time.Second)):
	}
}

// dialEngine connects to an engine's socket.
func dialEngine(socket string, timeout time.Duration) func(ctx context.Context, _, _ string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := net.Dialer{Timeout: timeout}
		return d.DialContext(ctx, "unix", socket)
	}
}

// readBounded reads an answer that is not to be longer than maxEngineBody.
func readBounded(r io.Reader, what string) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxEngineBody+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if len(body) > maxEngineBody {
		return nil, fmt.Errorf("%s: answer is longer than %d MiB", what, maxEngineBody>>20)
	}
	return body, nil
}
