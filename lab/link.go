package lab

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"weft/lab/topology"
)

// link is one port of a switch and what is behind it.
type link struct {
	port   *topology.Port
	device string // in the fabric
	cut    bool
	now    topology.Impairment
}

func (l *Lab) addLink(port *topology.Port, device string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.links[port.Link] = &link{port: port, device: device}
}

func (l *Lab) linkStates() []LinkState {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]LinkState, 0, len(l.links))
	for name, k := range l.links {
		out = append(out, LinkState{Name: name, Device: k.device, Cut: k.cut})
	}
	slices.SortFunc(out, func(a, b LinkState) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// link finds a link by "NODE@SWITCH", or by "NODE" its first one. The caller
// must not hold the lock.
func (l *Lab) link(name string) (*link, error) {
	full := name
	if h := l.hosts[name]; h != nil && len(h.node.Ports) > 0 {
		full = h.node.Ports[0].Link
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.links[full]; k != nil {
		return k, nil
	}
	known := slices.Sorted(maps.Keys(l.links))
	return nil, fmt.Errorf("lab %s has no link %q; it has %s", l.ID, name, strings.Join(known, ", "))
}
