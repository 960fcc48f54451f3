package model

import "time"

// Host is a machine that runs the agent. Joining creates it.
type Host struct {
	TypeMeta
	Metadata Metadata   `json:"metadata"`
	Spec     HostSpec   `json:"spec,omitzero"`
	Status   HostStatus `json:"status,omitzero"`
}

// HostSpec is what a person may say of a host.
type HostSpec struct {
	// Labels are added to the host workload, over those the agent reports.
	Labels map[string]string `json:"labels,omitempty"`
	// Claims are the keys of labels that the agent may claim for this machine and
	// for what runs on it: keys, beginnings with a * behind them ("app.*"), or
	// "any" or "none" alone. Unless given, those of the join token count, and
	// without these the controller's --claims. What the controller itself says of
	// the host (spec.labels, those of its token) needs no claim.
	Claims Claims `json:"claims,omitempty"`
	// Revoked refuses the host's certificate everywhere and for good. The
	// machine may join again with a new token and is then another host.
	Revoked bool `json:"revoked,omitempty"`
}

// HostState says whether a host's agent has a session.
type HostState string

// The states of a host.
const (
	HostOnline  HostState = "Online"
	HostOffline HostState = "Offline"
	HostRevoked HostState = "Revoked"
)

// HostStatus is what the host's agent reports.
type HostStatus struct {
	State        HostState         `json:"state,omitempty"`
	LastSeen     *time.Time        `json:"lastSeen,omitempty"`
	AgentVersion string            `json:"agentVersion,omitempty"`
	OS           string            `json:"os,omitempty"`
	Kernel       string            `json:"kernel,omitempty"`
	Arch         string            `json:"arch,omitempty"`
	CPUs         int               `json:"cpus,omitempty"`
	MemoryBytes  int64             `json:"memoryBytes,omitempty"`
	BootID       string            `json:"bootID,omitempty"`
	Interfaces   []Interface       `json:"interfaces,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	// Claims are what is in force; empty is any.
	Claims Claims `json:"claims,omitempty"`
	// RefusedLabels are labels that the agent claims and may not; they count nowhere.
	RefusedLabels []RefusedLabel `json:"refusedLabels,omitempty"`
	// Capabilities say what this host can do: "yes", "no: REASON" or
	// "unknown: REASON", by name ("tap.tcx", "bpf.ringbuf", ...).
	Capabilities map[string]string `json:"capabilities,omitempty"`
	// RemoteAddress is where the session comes from, after any NAT.
	RemoteAddress      string          `json:"remoteAddress,omitempty"`
	CertificateExpires *time.Time      `json:"certificateExpires,omitempty"`
	Sections           []SectionStatus `json:"sections,omitempty"`
	Conditions         []Condition     `json:"conditions,omitempty"`
	// Rings are what the host keeps of packets, for captures of the past.
	Rings []RingStatus `json:"rings,omitempty"`
	// Drops are packets that the host's kernel has thrown away, of all workloads
	// together, by its name for the reason. What policy turned down is not among them.
	Drops     map[string]uint64 `json:"drops,omitempty"`
	Workloads int               `json:"workloads"`
}

// RefusedLabel is a label that an agent claims and may not.
type RefusedLabel struct {
	// Workload is the name of the workload it was to be a label of.
	Workload string `json:"workload"`
	Key      string `json:"key"`
	Value    string `json:"value,omitempty"`
}

// Interface is a network device of a host.
type Interface struct {
	Name      string   `json:"name"`
	MAC       string   `json:"mac,omitempty"`
	MTU       int      `json:"mtu"`
	Addresses []string `json:"addresses,omitempty"`
	// Uplink is set where a default route leaves.
	Uplink bool `json:"uplink,omitempty"`
}

// SectionStatus says which desired state a host has been sent and has applied.
type SectionStatus struct {
	Name    string `json:"name"`
	Desired string `json:"desired"`
	Applied string `json:"applied,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Condition is a thing that is wrong (or was) with an object.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Message string `json:"message,omitempty"`
	// Severity says how much it matters.
	Severity Severity  `json:"severity,omitempty"`
	Since    time.Time `json:"since"`
}
