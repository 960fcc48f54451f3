package capture

import (
	"fmt"

	"weft/agent/capture/bpf"
)

// Sense says which side of its interfaces a workload is on.
type Sense uint8

// The senses.
const (
	// Uplink: the interface is the workload's own, as a host's is.
	Uplink Sense = iota
	// Veth: the interface is our end of a pair whose other end the workload
	// holds: what we receive, it has sent.
	Veth
)

// Workload is one that lines may name, and where its frames pass.
type Workload struct {
	ID         string
	Interfaces []string // of this network namespace
	Sense      Sense
	// Untappable says why there are no Interfaces, where that is known.
	Untappable string
}

// workloadNumbers hands out the numbers that stand for workloads in records.
// A number is used again as late as possible: frames may still bear it.
type workloadNumbers struct {
	byID [bpf.MaxWorkloads]string
	next uint32
}

func (n *workloadNumbers) find(id string) (uint32, bool) {
	if id == "" {
		return 0, false
	}
	for i, have := range n.byID {
		if have == id {
			return uint32(i), true
		}
	}
	return 0, false
}

// number returns the workload's, drawing one if it has none.
func (n *workloadNumbers) number(id string) (uint32, error) {
	if i, ok := n.find(id); ok {
		return i, nil
	}
	for range n.byID {
		i := n.next
		n.next = (n.next + 1) % bpf.MaxWorkloads
		if n.byID[i] == "" {
			n.byID[i] = id
			return i, nil
		}
	}
	return 0, fmt.Errorf("more than %d workloads are tapped on this host", bpf.MaxWorkloads)
}

// keep frees the numbers of workloads that no line names any more.
func (n *workloadNumbers) keep(wanted map[string]bool) {
	for i, id := range n.byID {
		if !wanted[id] {
			n.byID[i] = ""
		}
	}
}
