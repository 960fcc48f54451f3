package reach

import (
	"fmt"
	"net/netip"
	"time"

	"weft/lab"
)

// Probe is one question: does this place reach that one.
type Probe struct {
	From     string  `json:"from"`
	To       string  `json:"to"`
	Service  string  `json:"service"`
	Expected Verdict `json:"expected"`
	// Line of the table that expects it.
	Line int `json:"line"`
	// Target is what was called; none where there is no way by design, as to a
	// host behind somebody else's NAT. Such a probe is not made: it holds where
	// no answer is expected.
	Target string  `json:"target,omitempty"`
	Actual Verdict `json:"actual,omitempty"`
	// Detail is what the operating system said.
	Detail string        `json:"detail,omitempty"`
	Took   time.Duration `json:"took,omitempty"`

	from, to *lab.Place
	service  Service
	target   netip.AddrPort
}

// Made says whether the probe had a way to go.
func (p *Probe) Made() bool { return p.Target != "" }

// Holds says whether what is so is what was expected.
func (p *Probe) Holds() bool {
	if !p.Made() {
		return p.Expected == Deny
	}
	return p.Actual == p.Expected
}

// Probes finds what a table asks of the places there are. Nobody is asked to
// reach itself.
func (t *Table) Probes(places []*lab.Place) ([]*Probe, error) {
	list, err := t.questions(places)
	if err != nil {
		return nil, err
	}
	out := make([]*Probe, len(list))
	for i, q := range list {
		out[i] = newProbe(q.from, q.to, q.service, q.line)
	}
	return out, nil
}

// question is a pair and a service, and the line that decides what is expected.
type question struct {
	pair
	line line
}

type pair struct {
	from, to *lab.Place
	service  Service
}

func (t *Table) questions(places []*lab.Place) ([]question, error) {
	asked := map[pair]bool{}
	var out []question
	var errs Errors
	for _, l := range t.lines {
		from, err := t.fitting(l.from, places)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", t.file, l.number, err))
			continue
		}
		to, err := t.fitting(l.to, places)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", t.file, l.number, err))
			continue
		}
		before := len(out)
		for _, s := range l.services {
			for _, a := range from {
				for _, b := range to {
					if p := (pair{a, b, s}); a != b && !asked[p] {
						asked[p] = true
						out = append(out, question{p, l})
					}
				}
			}
		}
		if len(out) == before {
			errs = append(errs, fmt.Errorf("%s:%d: line decides nothing: lines above it take all it fits; move it up or remove it", t.file, l.number))
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return out, nil
}

func newProbe(from, to *lab.Place, s Service, l line) *Probe {
	p := &Probe{From: from.Name, To: to.Name, Service: s.String(), Expected: l.expected, Line: l.number, from: from, to: to, service: s}
	if target, ok := from.Target(to, s.Protocol, s.Port); ok {
		p.target, p.Target = target, target.String()
		if s.Protocol == "icmp" {
			p.Target = target.Addr().String()
		}
	} else {
		p.Detail = "no way: a container of another host needs a published port, a host behind NAT a public address or a forwarded port"
	}
	return p
}
