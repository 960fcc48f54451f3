package nft

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"

	"weft/agent/datapath"
	"weft/policy"
)

// counts reads what each verdict of the namespace has done, by its number.
func (n *namespace) counts(c *nftables.Conn) (map[uint32]counted, error) {
	out := map[uint32]counted{}
	for kind, set := range verdictMaps {
		list, err := c.GetSetElements(setNamed(set))
		if err != nil {
			return nil, fmt.Errorf("read counts: %w", err)
		}
		for _, e := range list {
			if e.Counter == nil || len(e.Key) != 4 {
				continue
			}
			add := counted{packets: e.Counter.Packets, bytes: e.Counter.Bytes}
			if kind == isNew {
				add.connections = e.Counter.Packets
			}
			key := binary.BigEndian.Uint32(e.Key)
			out[key] = out[key].plus(add)
		}
	}
	return out, nil
}

// keepCounts adds up what a namespace has counted before its table goes.
func (d *Driver) keepCounts(n *namespace) {
	for o, c := range n.total() {
		d.gone[o] = d.gone[o].plus(c)
	}
}

// total is what the namespace has counted, as far as it can be read.
func (n *namespace) total() map[outcome]counted {
	out := map[outcome]counted{}
	for o, c := range n.gone {
		out[o] = c
	}
	if n.loaded == nil {
		return out
	}
	c, err := n.dial()
	if err != nil {
		return out
	}
	defer c.CloseLasting()
	counts, err := n.counts(c)
	if err != nil {
		return out
	}
	for num, o := range n.loaded.outcomes {
		out[o] = out[o].plus(counts[num])
	}
	return out
}

// Forget does nothing: the kernel's connection tracking forgets by itself.
func (d *Driver) Forget() error { return nil }

// Counts adds up the namespaces. A connection counts once for each packet it
// sends before it has an answer. A Log rule has the counts of the verdicts it
// was on the way to.
func (d *Driver) Counts() ([]datapath.RuleCount, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	sum := map[policy.RuleID]counted{}
	add := func(all map[outcome]counted) {
		for o, c := range all {
			sum[o.Rule] = sum[o.Rule].plus(c)
			if o.Logged != 0 {
				sum[o.Logged] = sum[o.Logged].plus(c)
			}
		}
	}
	add(d.gone)
	for _, n := range d.spaces {
		add(n.total())
	}
	var out []datapath.RuleCount
	for id, c := range sum {
		out = append(out, datapath.RuleCount{Rule: id, Connections: c.connections, Packets: c.packets, Bytes: c.bytes})
	}
	slices.SortFunc(out, func(a, b datapath.RuleCount) int { return cmp.Compare(a.Rule, b.Rule) })
	return out, nil
}
