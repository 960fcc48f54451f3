// Package cgroup reads what is in the path of a control group: container managers
// and systemd name theirs by rules, by which a container or a unit is known
// without asking anybody.
package cgroup

import (
	"path"
	"regexp"
	"strings"
)

var (
	hexID = regexp.MustCompile(`^[0-9a-f]{64}$`)
	// What container managers call their cgroups: systemd's scopes, and plain
	// directories with the cgroupfs driver.
	scopeRE = regexp.MustCompile(`^(docker|libpod|libpod-payload|cri-containerd|crio|nerdctl|podman)-([0-9a-f]{64})(\.scope)?$`)
)

var runtimes = map[string]string{"docker": "docker", "libpod": "podman", "libpod-payload": "podman", "podman": "podman", "cri-containerd": "containerd", "crio": "cri-o", "nerdctl": "containerd"}

// Container reads the container's id out of the last element of a path:
// docker-ID.scope, libpod-ID, libpod-payload-ID (in the cgroup of a unit that
// Podman runs in), cri-containerd-ID.scope, crio-ID.scope, /docker/ID,
// /kubepods/.../podUID/ID. Monitors (libpod-conmon-ID) are none.
func Container(rel string) (runtime, id string) {
	base := path.Base(rel)
	if m := scopeRE.FindStringSubmatch(base); m != nil {
		return runtimes[m[1]], m[2]
	}
	if !hexID.MatchString(base) {
		return "", ""
	}
	switch parent := path.Base(path.Dir(rel)); {
	case parent == "docker":
		return "docker", base
	case parent == "libpod_parent":
		return "podman", base
	default: // Kubernetes, containerd namespaces
		return "containerd", base
	}
}

// ContainerID says whether a text is what runtimes call a container.
func ContainerID(text string) bool { return hexID.MatchString(text) }

// LXC is the name in the path of a container of LXC, LXD or Incus; empty where it
// is none.
func LXC(rel string) string {
	name, _ := strings.CutPrefix(path.Base(rel), "lxc.payload.")
	if name == path.Base(rel) {
		return ""
	}
	return name
}

// Unit says whether a path is that of a systemd service.
func Unit(rel string) bool { return strings.HasSuffix(rel, ".service") }
