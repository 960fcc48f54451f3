package conversations

import (
	"net/netip"

	"weft/internal/application"
)

// maxNames bounds what is remembered of names.
const maxNames = 200_000

// asked is who looked a name up, and what it got.
type asked struct{ client, address netip.Addr }

// names remembers by which name clients looked addresses up, the last one where
// they were several.
type names struct {
	by map[asked]string
	// any has the names for clients that are not seen to ask: they may ask a
	// resolver whose questions are in the file.
	any map[netip.Addr]string
}

func newNames() *names { return &names{by: map[asked]string{}, any: map[netip.Addr]string{}} }

func (n *names) learn(client netip.Addr, a application.Answer) {
	if len(n.by) < maxNames {
		n.by[asked{client, a.Address.Unmap()}] = a.Name
	}
	if len(n.any) < maxNames {
		n.any[a.Address.Unmap()] = a.Name
	}
}

func (n *names) of(client, server netip.Addr) string {
	if name, ok := n.by[asked{client, server}]; ok {
		return name
	}
	return n.any[server]
}
