package application

import "net/netip"

// lookup is who looked a name up, and what it got.
type lookup struct{ client, address netip.Addr }

// Names remembers by which name clients looked addresses up, the last one where
// they were several. It forgets what was learned longest ago.
type Names struct {
	most       int
	young, old map[lookup]string
}

// NewNames makes a memory of so many names at most.
func NewNames(most int) *Names {
	return &Names{most: max(most, 2), young: map[lookup]string{}, old: map[lookup]string{}}
}

// Learn takes what a client was answered.
func (n *Names) Learn(client netip.Addr, answers []Answer) {
	for _, a := range answers {
		// Also for clients that are not seen to ask: they may ask a resolver whose
		// questions are seen.
		n.put(lookup{client, a.Address.Unmap()}, a.Name)
		n.put(lookup{address: a.Address.Unmap()}, a.Name)
	}
}

func (n *Names) put(k lookup, name string) {
	if len(n.young) >= n.most/2 {
		n.young, n.old = map[lookup]string{}, n.young
	}
	n.young[k] = name
}

// Of is the name by which a client knows a server; empty where that is not known.
func (n *Names) Of(client, server netip.Addr) string {
	for _, k := range []lookup{{client, server}, {address: server}} {
		if name, ok := n.young[k]; ok {
			return name
		}
		if name, ok := n.old[k]; ok {
			return name
		}
	}
	return ""
}
