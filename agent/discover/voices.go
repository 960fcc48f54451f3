package discover

import (
	"sync"
	"time"
)

// completeWithin bounds how long the first word of the cloud and the engines is
// waited for; each bounds its answers itself, so this is for one that dribbles.
const completeWithin = 10 * time.Second

// voices are the slow sources that have not said anything yet.
type voices struct {
	mu     sync.Mutex
	silent map[string]bool
	spoken chan struct{} // closed when none is left
}

const cloudVoice = "cloud"

// expect makes the list of the sources that are asked.
func (v *voices) expect(cfg Config) <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.silent, v.spoken = map[string]bool{}, make(chan struct{})
	if cfg.MetadataURL != "-" {
		v.silent[cloudVoice] = true
	}
	for _, socket := range append([]string{cfg.ContainerdSocket}, cfg.DockerSockets...) {
		if socket != "-" {
			v.silent[socket] = true
		}
	}
	if len(v.silent) == 0 {
		close(v.spoken)
	}
	return v.spoken
}

// heard says that a source has answered, or cannot.
func (v *voices) heard(source string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.silent[source] {
		return
	}
	if delete(v.silent, source); len(v.silent) == 0 {
		close(v.spoken)
	}
}
