package importing

// answers is what a chain does with the answers of connections that the other
// direction let begin.
type answers struct {
	// stopped are the peers whose answers it may stop: what comes before the rule
	// that accepts ESTABLISHED is about them.
	stopped  addresses
	accepted bool // every answer that comes past those is accepted
}

// stoppedAnswers returns the peers whose answers a built-in chain does not let pass
// as a matter of course.
func (s *save) stoppedAnswers(name string) addresses {
	c := s.chains[name]
	if c == nil {
		return nil
	}
	a := s.answersIn(c, name == "OUTPUT", 0)
	if !a.accepted && c.policy != "ACCEPT" {
		return s.family
	}
	return a.stopped
}

func (s *save) answersIn(c *chain, egress bool, depth int) answers {
	var out answers
	if depth > maxChains {
		return answers{stopped: s.family}
	}
	for i := range c.rules {
		rule := &c.rules[i]
		if rule.state != nil && !containsAny(rule.state, "ESTABLISHED") {
			continue
		}
		match, unsaid := s.seen(rule, egress)
		all := len(unsaid) == 0 && match.lo == anyDevice && match.services.whole() && len(s.family.without(match.addr)) == 0 &&
			(!rule.never || rule.state != nil)
		next := s.chains[rule.target]
		switch {
		case rule.target == "RETURN" && all:
			return out
		case rule.target == "RETURN", next != nil && rule.jumps:
			// Some leave the chain here: what accepts later accepts them no more.
			return answers{stopped: s.family}
		case rule.target == "ACCEPT":
			if all {
				out.accepted = true
				return out
			}
		case next != nil:
			inner := s.answersIn(next, egress, depth+1)
			out.stopped = out.stopped.or(inner.stopped.and(match.addr))
			if inner.accepted && all {
				out.accepted = true
				return out
			}
		case rule.target != "" && rule.target != "LOG" && rule.target != "NFLOG":
			out.stopped = out.stopped.or(match.addr)
		}
	}
	return out
}
