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

// since returns what came after an earlier total; all of it where that is no
// earlier total, for then counting began anew.
func (h Hits) since(o Hits) Hits {
	if h.Connections < o.Connections || h.Packets < o.Packets || h.Bytes < o.Bytes {
		return h
	}
	return Hits{h.Connections - o.Connections, h.Packets - o.Packets, h.Bytes - o.Bytes}
}

// counters are the totals that one host's agent last reported, of one generation
// of its driver's state.
type counters struct {
	Driver     string          `json:"driver"`
	Generation uint64          `json:"generation"`
	Now        map[uint64]Hits `json:"now"`
	Lost       uint64          `json:"lost"`
}

// report takes a report and adds what is new in it to the fleet's totals. It
// returns how many conversations were lost since the last.
func (c *counters) report(r *wirepb.PolicyReport, totals map[uint64]Hits) (lost uint64) {
	if driver := clip(r.Driver); c.Driver != driver || c.Generation != r.Generation {
		*c = counters{Driver: driver, Generation: r.Generation}
	}
	if c.Now == nil {
		c.Now = map[uint64]Hits{}
	}
	for _, n := range r.Rules {
		last, known := c.Now[n.Rule]
		if !known && len(c.Now) >= maxRules {
			continue
		}
		now := Hits{n.Connections, n.Packets, n.Bytes}
		totals[n.Rule] = totals[n.Rule].add(now.since(last))
		c.Now[n.Rule] = now
	}
	if lost = r.Lost - c.Lost; r.Lost < c.Lost {
		lost = r.Lost
	}
	c.Lost = r.Lost
	return lost
}

func (c *counters) clone() *counters {
	d := *c
	d.Now = maps.Clone(c.Now)
	return &d
}
