package model

import "time"

// Tap is a line from a group of workloads to tools: a copy of their packets.
type Tap struct {
	TypeMeta
	Metadata Metadata  `json:"metadata"`
	Spec     TapSpec   `json:"spec"`
	Status   TapStatus `json:"status,omitzero"`
}

// Endpoints names workloads: by selector or by group, exactly one of the two.
type Endpoints struct {
	// Selector names workloads by their labels.
	Selector *Selector `json:"selector,omitempty"`
	// Group names the members of a group.
	Group string `json:"group,omitempty"`
}

// Direction says which packets of a workload are wanted, seen from it.
type Direction string

// The directions of a tap.
const (
	DirectionBoth    Direction = "Both"
	DirectionIngress Direction = "Ingress"
	DirectionEgress  Direction = "Egress"
)

// TapSpec is the intent. Exactly one of to and ring is given. Each matching tool is
// owed a copy of its own.
type TapSpec struct {
	// From are the workloads that are tapped.
	From Endpoints `json:"from"`
	// To must match workloads of kind host: the machines the tools run on.
	To Endpoints `json:"to,omitzero"`
	// Ring keeps the packets on the hosts of the workloads.
	Ring *Ring `json:"ring,omitempty"`
	// Filter is a pcap-filter(7) expression; empty takes every packet.
	Filter string `json:"filter,omitempty"`
	// Snaplen cuts each frame to that many bytes; 0 keeps it whole.
	Snaplen int `json:"snaplen,omitempty"`
	// Direction is Both unless given, Ingress or Egress, seen from the workload.
	Direction Direction `json:"direction,omitempty"`
	// Deliver says in what form the tools get the packets.
	Deliver Deliver `json:"deliver,omitzero"`
	// Paused keeps the tap but stops the copies.
	Paused bool `json:"paused,omitempty"`
}

// Deliver says in what form the tool gets the packets.
type Deliver struct {
	// Device is the interface on the tool's host that the packets arrive on;
	// weft makes it ("weft0" unless named). 15 bytes at most.
	Device string `json:"device,omitempty"`
}

// TapState sums up a tap.
type TapState string

// The states of a tap.
const (
	TapPending  TapState = "Pending"  // no source, no tool, or not applied yet
	TapActive   TapState = "Active"   // every source delivers to every tool
	TapDegraded TapState = "Degraded" // some do, some do not; see sources and paths
	TapError    TapState = "Error"    // refused by a host; see sources and tools
	TapPaused   TapState = "Paused"
)

// TapStatus is computed from what the hosts report.
type TapStatus struct {
	// State is Pending, Active, Degraded, Error or Paused.
	State TapState `json:"state,omitempty"`
	// Message says why, where the state is not Active.
	Message string `json:"message,omitempty"`
	// Sources are the tapped workloads.
	Sources []TapSource `json:"sources,omitempty"`
	// Tools are the hosts that receive the copies.
	Tools []TapTool `json:"tools,omitempty"`
	// Paths are the streams, one from each source host to each tool, or to its ring.
	Paths []TapPath `json:"paths,omitempty"`
	// Ledger is the sum of those of the paths.
	Ledger Ledger `json:"ledger"`
}

// TapSource is one tapped workload.
type TapSource struct {
	Workload string `json:"workload"`
	Host     string `json:"host"`
	State    string `json:"state"` // Pending | Capturing | Error | Offline
	Message  string `json:"message,omitempty"`
}

// TapTool is one host that receives the copies.
type TapTool struct {
	Host    string `json:"host"`
	Device  string `json:"device,omitempty"`
	State   string `json:"state"` // Pending | Ready | Error | Offline
	Message string `json:"message,omitempty"`
}

// TapPath is the stream from one source host to one tool, with its account.
type TapPath struct {
	Host  string `json:"host"`
	Tool  string `json:"tool"`            // empty where Path is ring
	State string `json:"state"`           // Connecting | Connected | Error
	Path  string `json:"path,omitempty"`  // direct | relay | ring
	Relay string `json:"relay,omitempty"` // the relay's name where Path is relay
	// Remote is the address the source's agent dialled.
	Remote  string     `json:"remote,omitempty"`
	Since   *time.Time `json:"since,omitempty"`
	Message string     `json:"message,omitempty"`
	Ledger  Ledger     `json:"ledger"`
	// Ring is what the host keeps, where Path is ring.
	Ring *RingStatus `json:"ring,omitempty"`
}
