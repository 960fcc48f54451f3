package importing

// answersPass says whether a chain lets the answers of every connection pass
// without looking at them: it accepts ESTABLISHED before anything can stop them,
// or stops nothing.
func (s *save) answersPass(name string) bool {
	c := s.chains[name]
	if c == nil {
		return true
	}
	switch s.answersIn(c, 0) {
	case answersAccepted:
		return true
	case answersGoOn:
		return c.policy == "ACCEPT"
	}
	return false
}

type answers int

const (
	answersGoOn answers = iota
	answersAccepted
	answersStopped
)

func (s *save) answersIn(c *chain, depth int) answers {
	if depth > maxChains {
		return answersStopped
	}
	for i := range c.rules {
		rule := &c.rules[i]
		if rule.state != nil && !containsAny(rule.state, "ESTABLISHED") {
			continue
		}
		all := len(rule.unsaid) == 0 && rule.in == anyDevice && rule.out == anyDevice && rule.services.whole() &&
			len(s.family.without(rule.source)) == 0 && len(s.family.without(rule.destination)) == 0 &&
			(!rule.never || rule.state != nil)
		switch next := s.chains[rule.target]; {
		case rule.target == "RETURN":
			if all {
				return answersGoOn
			}
			// Some may skip what follows, so what follows may accept no more.
			if s.stopsLater(c.rules[i+1:]) {
				return answersStopped
			}
			return answersGoOn
		case rule.target == "ACCEPT":
			if all {
				return answersAccepted
			}
		case next != nil:
			switch got := s.answersIn(next, depth+1); {
			case got == answersStopped:
				return answersStopped
			case got == answersAccepted && all:
				return answersAccepted
			case rule.jumps:
				return answersStopped // too entangled to tell
			}
		case rule.target != "" && rule.target != "LOG" && rule.target != "NFLOG":
			return answersStopped
		}
	}
	return answersGoOn
}

func (s *save) stopsLater(rules []saveRule) bool {
	return s.mayStop(&chain{policy: "-", rules: rules}, 0)
}
