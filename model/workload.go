package model

// WorkloadKind says what owns the packets.
type WorkloadKind string

// The kinds of workloads.
const (
	WorkloadHost      WorkloadKind = "host"
	WorkloadContainer WorkloadKind = "container"
	WorkloadUnit      WorkloadKind = "unit"
	WorkloadGuest     WorkloadKind = "guest"
)

// Workload is what owns packets on a host. Agents report workloads; nobody
// writes them. Its name is the host's name for the host workload itself, and
// "HOST:NAME" for everything on it.
//
// Its labels are its own, and for anything on a host also the host's labels
// under cloud., host. and os., so that "cloud.zone=eu-1a" finds containers too.
// Every workload carries workload.kind and host.name.
type Workload struct {
	TypeMeta
	Metadata Metadata     `json:"metadata"`
	Spec     WorkloadSpec `json:"spec"`
}

// WorkloadSpec describes one workload as its host's agent sees it.
type WorkloadSpec struct {
	// Host is the name of the host it is on.
	Host string `json:"host"`
	// Kind is host, container, unit or guest.
	Kind WorkloadKind `json:"kind"`
	// Addresses are its IP addresses.
	Addresses []string `json:"addresses,omitempty"`
	// Interfaces are the devices on the host at which the workload's packets
	// pass: the uplinks of a host, the host's end of a container's veth pair, a
	// guest's ports.
	Interfaces []string `json:"interfaces,omitempty"`
	// Cgroup is its path under the cgroup2 tree of the host.
	Cgroup string `json:"cgroup,omitempty"`
	// Container is set for containers only.
	Container *Container `json:"container,omitempty"`
}

// Container is what the runtime says of a container.
type Container struct {
	// ID is the runtime's own, 64 hex digits as a rule.
	ID string `json:"id"`
	// Name is what the runtime calls it.
	Name string `json:"name,omitempty"`
	// Image is the reference it was started from.
	Image string `json:"image,omitempty"`
	// Runtime is what runs it: docker, podman, containerd, cri-o, lxc, cgroup.
	Runtime string `json:"runtime"`
}
