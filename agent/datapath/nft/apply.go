package nft

import (
	"errors"
	"maps"
	"slices"
	"syscall"

	"github.com/google/nftables"

	"weft/agent/datapath"
)

// applyTo makes a namespace's table say what its subjects' rulesets say.
func (d *Driver) applyTo(n *namespace, subjects []*datapath.Subject, addresses *addresses) error {
	c, err := n.dial()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	if n.loaded != nil {
		held, err := n.holds(c)
		if err != nil {
			return err
		}
		if !held { // somebody else has taken it away
			n.loaded = nil
		}
	}
	incomplete := n.place(subjects, n == d.own, d.tree)
	if n.base != nil {
		addresses = addresses.withLoopback(n.base.subject, n == d.own)
	}
	now := &loaded{shape: n.shape(), content: n.plan.make(n.members, n.base, addresses, n.epoch), outcomes: maps.Clone(n.plan.outcomes)}
	t := transaction{conn: c}
	old := n.loaded
	if old == nil {
		old = &loaded{}
		if err := t.begin(); err != nil {
			return err
		}
	} else if err := n.keepStale(c, now.outcomes); err != nil {
		return err
	}
	if n.loaded == nil || old.shape != now.shape {
		t.rules(now.shape)
	}
	now.logs = t.outcomes(old.outcomes, now.outcomes, old.logs, d.logText)
	t.content(old.content, now.content)
	t.dropLogs(old.logs, now.logs)
	if err := t.commit(); err != nil {
		n.loaded = nil // to be made anew; until then the old one holds
		return err
	}
	if now.digest, err = n.rulesDigest(); err != nil {
		return err
	}
	n.loaded = now
	return incomplete
}

// keepStale leaves verdicts that nothing leads to any more in their maps while
// they are few: to read their counts means to read all, which takes the kernel
// the square of their number. Otherwise it reads them, and lets them go.
func (n *namespace) keepStale(c *nftables.Conn, now map[uint32]outcome) error {
	stale := map[uint32]outcome{}
	for num, o := range n.loaded.outcomes {
		if _, ok := now[num]; !ok {
			stale[num] = o
		}
	}
	if len(stale) <= max(256, len(now)/4) {
		maps.Copy(now, stale)
		return nil
	}
	counts, err := n.counts(c)
	if err != nil {
		return err
	}
	for num, o := range stale {
		n.gone[o] = n.gone[o].plus(counts[num])
	}
	return nil
}

func (d *Driver) logText(o outcome) string {
	text := "weft " + d.names[o.Logged]
	if len(text) > 110 { // the kernel takes 127 bytes
		text = text[:110]
	}
	return text + ": "
}

// holds says whether our table is in the namespace.
func (n *namespace) holds(c *nftables.Conn) (bool, error) {
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return false, err
	}
	return slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == TableName && c.Name == chainInput }), nil
}

func (n *namespace) held() (bool, error) {
	c, err := n.dial()
	if err != nil {
		return false, err
	}
	defer c.CloseLasting()
	return n.holds(c)
}

func (c counted) plus(o counted) counted {
	return counted{c.connections + o.connections, c.packets + o.packets, c.bytes + o.bytes}
}
