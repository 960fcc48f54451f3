package importing

import (
	"path"
	"strings"

	"weft/model"
)

// iptables reads what iptables-save and ip6tables-save write. Only the chains
// INPUT and OUTPUT of the table filter decide what the machine itself receives
// and sends; what they jump to is followed.
func (r *run) iptables(files []File) {
	if r.options.Subject == nil {
		name := ""
		if len(files) > 0 {
			name = files[0].Name
		}
		r.fault(name, 1, "", `does not say which machine the rules are from; give --subject, as "host.name=web-1"`)
		return
	}
	l := ladder{tier: model.TierApplication, first: firstRung}
	for _, f := range files {
		s := r.parseSave(f)
		if s == nil || len(r.faults) > 0 {
			continue
		}
		s.reportUnread()
		base := "iptables-" + strings.TrimSuffix(path.Base(f.Name), path.Ext(f.Name))
		if s.family[0].first.Is6() {
			base = "ip6tables" + strings.TrimPrefix(base, "iptables")
		}
		for _, side := range []struct{ chain, other string }{{"INPUT", "OUTPUT"}, {"OUTPUT", "INPUT"}} {
			if s.chains[side.chain] == nil {
				continue
			}
			d := draft{name: base + "-" + strings.ToLower(side.chain), origin: origin{f.Name, s.chains[side.chain].line, "chain " + side.chain}, subjects: []model.Selector{{}}}
			// Answers pass where the other chain lets them pass unasked; else it
			// must be asked about every packet.
			w := walker{save: s, egress: side.chain == "OUTPUT", untracked: s.stoppedAnswers(side.other)}
			if len(w.untracked) > 0 {
				s.findAt(s.chains[side.chain].line, "chain "+side.chain, side.chain, Closes, "answers pass "+side.other+", where something comes before ESTABLISHED is accepted: "+describeAddresses(w.untracked),
					"with these peers connections are not tracked (stateful: false), so that "+side.other+" is asked about each answer; errors (ICMP) of such connections do not pass by themselves")
			}
			w.builtin(side.chain)
			if side.chain == "INPUT" {
				l.add(d, w.out, nil)
			} else {
				l.add(d, nil, w.out)
			}
		}
	}
	if len(r.faults) == 0 {
		l.flush(r)
	}
}

func (s *save) findAt(line int, object, field string, effect Effect, means, did string) {
	s.run.found(Finding{File: s.file, Line: line, Object: object, Field: field, Means: means, Did: did, Effect: effect})
}

// reportUnread says what of the file has no place in a policy.
func (s *save) reportUnread() {
	for _, t := range s.tables {
		switch {
		case t.name == "filter":
		case t.stops:
			s.findAt(t.line, "table "+t.name, "*"+t.name, Opens, "stops packets", "the table is left out; write the rules that stop packets into filter's INPUT and OUTPUT")
		default:
			s.findAt(t.line, "table "+t.name, "*"+t.name, Same, "changes packets and stops none", "the table is left out; addresses are judged as the machine's own programs see them")
		}
	}
	if c := s.chains["FORWARD"]; c != nil && (len(c.rules) > 0 || c.policy != "ACCEPT") {
		effect := Same
		if s.mayStop(c, 0) {
			effect = Opens
		}
		s.findAt(c.line, "chain FORWARD", "FORWARD", effect, "is about packets that pass through the machine", "it is left out; weft judges a connection at its two ends: write policies for the workloads behind the machine")
	}
}

// mayStop says whether a chain can stop a packet.
func (s *save) mayStop(c *chain, depth int) bool {
	if c.policy != "ACCEPT" && c.policy != "-" {
		return true
	}
	for i := range c.rules {
		switch t := c.rules[i].target; {
		case s.chains[t] != nil:
			if depth > maxChains || s.mayStop(s.chains[t], depth+1) {
				return true
			}
		case t != "ACCEPT" && t != "RETURN" && t != "" && t != "LOG":
			return true
		}
	}
	return false
}

func describeAddresses(a addresses) string {
	list := a.prefixes()
	text := list[0].String()
	for _, p := range list[1:min(len(list), 4)] {
		text += ", " + p.String()
	}
	if len(list) > 4 {
		text += " and more"
	}
	return text
}
