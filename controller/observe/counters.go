package observe

import (
	"maps"

	"weft/wire/wirepb"
)

// maxRules bounds the counters of one host.
const maxRules = 200_000

// Hits is what a rule has decided.
type Hits struct {
	Connections uint64 `json:"connections"`
	Packets     uint64 `json:"packets"`
	Bytes       uint64 `json:"bytes"`
}

func (h Hits) add(o Hits) Hits {
	return Hits{h.Connections + o.Connections, h.Packets + o.Packets, h.Bytes + o.Bytes}
}

// counters are one host's rule counters. The agent reports totals of one
// generation of its driver's state; those of earlier ones are in before.
type counters struct {
	Driver     string          `json:"driver"`
	Generation uint64          `json:"generation"`
	Now        map[uint64]Hits `json:"now"`
	Before     map[uint64]Hits `json:"before"`
	Lost       uint64          `json:"lost"`
	LostBefore uint64          `json:"lostBefore"`
}

func newCounters() *counters { return &counters{Now: map[uint64]Hits{}, Before: map[uint64]Hits{}} }

func (c *counters) report(r *wirepb.PolicyReport) {
	if c.Driver != r.Driver || c.Generation != r.Generation {
		for id, h := range c.Now {
			c.Before[id] = c.Before[id].add(h)
		}
		clear(c.Now)
		c.Driver, c.Generation, c.LostBefore, c.Lost = clip(r.Driver), r.Generation, c.LostBefore+c.Lost, 0
	}
	for _, n := range r.Rules {
		if _, known := c.Now[n.Rule]; known || len(c.Now) < maxRules {
			c.Now[n.Rule] = Hits{n.Connections, n.Packets, n.Bytes}
		}
	}
	c.Lost = r.Lost
}

func (c *counters) of(rule uint64) Hits { return c.Now[rule].add(c.Before[rule]) }

func (c *counters) clone() *counters {
	d := *c
	d.Now, d.Before = maps.Clone(c.Now), maps.Clone(c.Before)
	return &d
}
