package importing

import (
	"fmt"
	"slices"
	"strings"

	"weft/model"
)

// loopback is a condition on the device.
type loopback int

const (
	anyDevice loopback = iota
	onlyLoopback
	notLoopback
)

// box is a set of packets: every combination of its parts.
type box struct {
	addr     addresses // of the peer
	services services
	lo       loopback
}

func (b box) empty() bool { return len(b.addr) == 0 || b.services.empty() }

// and returns the packets in both; there is none where the devices exclude one
// another.
func (b box) and(o box) (box, bool) {
	out := box{b.addr.and(o.addr), b.services.and(o.services), max(b.lo, o.lo)}
	return out, !out.empty() && (b.lo == anyDevice || o.lo == anyDevice || b.lo == o.lo)
}

// without returns what of b is not in o, as boxes that do not overlap.
func (b box) without(o box) []box {
	common, some := b.and(o)
	if !some {
		return []box{b}
	}
	var out []box
	for _, part := range []box{
		{b.addr.without(common.addr), b.services, b.lo},
		{common.addr, b.services.without(common.services), b.lo},
	} {
		if !part.empty() {
			out = append(out, part)
		}
	}
	if b.lo == anyDevice && o.lo != anyDevice {
		other := onlyLoopback
		if o.lo == onlyLoopback {
			other = notLoopback
		}
		out = append(out, box{common.addr, common.services, other})
	}
	return out
}

// Limits of a walk: how deep chains may call one another, and how many steps and
// boxes following them may take.
const (
	maxChains = 64
	maxSteps  = 200_000
	maxBoxes  = 500
)

// walker follows a chain and what it jumps to, and writes the rules in the order
// in which they decide.
type walker struct {
	save   *save
	egress bool
	out    []ordered
	steps  int
	// untracked are peers whose answers the other chain is to be asked about.
	untracked addresses
	// selfDone says that every packet to and from the machine itself is decided.
	selfDone bool
}

func (w *walker) builtin(name string) {
	c := w.save.chains[name]
	all := []box{{w.save.family, allServices(), anyDevice}}
	w.chain(c, all, false, 0)
	// Whatever nothing has decided comes here, however it left the chain.
	policy, _ := targetAction(c.policy)
	w.emit(all[0], policy, c.line)
}

// chain sends boxes through a chain and returns those that come out at its end or
// return. Where unsure is set, something unknown decides whether they come here
// at all: then nothing is allowed, and what stops packets stops them.
func (w *walker) chain(c *chain, here []box, unsure bool, depth int) (back []box) {
	s := w.save
	if depth > maxChains {
		s.run.fault(s.file, c.line, "chain "+c.name, "is called in a circle, or deeper than %d", maxChains)
		return nil
	}
	for i := range c.rules {
		rule := &c.rules[i]
		if w.steps++; w.steps > maxSteps || len(here)+len(back) > maxBoxes {
			s.run.fault(s.file, rule.line, "chain "+c.name, "is too entangled to follow; replace RETURN by rules that say what they mean")
			return nil
		}
		if len(s.run.faults) > 0 {
			return nil
		}
		if rule.never {
			w.neverFirst(c, rule)
			continue
		}
		match, unsaid := s.seen(rule, w.egress)
		var hit []box
		for _, b := range here {
			if x, some := b.and(match); some {
				hit = append(hit, x)
			}
		}
		if len(hit) == 0 {
			continue
		}
		unknown := len(unsaid) > 0
		action, final := targetAction(rule.target)
		next := s.chains[rule.target]
		switch {
		case rule.target == "RETURN":
			if unknown {
				w.find(c, rule, unsaid, Closes, "after it, nothing is allowed and what stops packets stops them, to the end of the chain")
				unsure = true
				continue
			}
			if policy, builtin := targetAction(c.policy); builtin && (!unsure || policy != model.ActionAllow) {
				for _, b := range hit {
					w.emit(b, policy, rule.line)
				}
				continue
			}
			back, here = append(back, hit...), subtract(here, match)
		case next != nil:
			if unknown {
				w.find(c, rule, unsaid, Closes, "what "+rule.target+" accepts is left out, what it stops is stopped without the condition")
			}
			out := w.chain(next, hit, unsure || unknown, depth+1)
			if rule.jumps && !unknown {
				back, here = append(back, out...), subtract(here, match)
			} else if rule.jumps {
				unsure = true
			}
		case final || action == model.ActionLog:
			w.rule(c, rule, action, hit, unsure, unsaid)
		default:
			w.otherTarget(c, rule, hit)
		}
	}
	return append(back, here...)
}

func subtract(boxes []box, m box) []box {
	var out []box
	for _, b := range boxes {
		out = append(out, b.without(m)...)
	}
	return out
}

func targetAction(target string) (model.Action, bool) {
	switch target {
	case "ACCEPT":
		return model.ActionAllow, true
	case "DROP":
		return model.ActionDeny, true
	case "REJECT":
		return model.ActionReject, true
	case "LOG", "NFLOG":
		return model.ActionLog, false
	}
	return "", false
}

// rule writes one that decides or logs.
func (w *walker) rule(c *chain, rule *saveRule, action model.Action, hit []box, unsure bool, unsaid []string) {
	if action == model.ActionLog && len(rule.args) > 0 {
		w.save.findAt(rule.line, "chain "+c.name, short(strings.Join(rule.args, " ")), Same, "says how to log", "weft logs in its own way")
	}
	if action == model.ActionAllow && (unsure || len(unsaid) > 0) {
		if len(unsaid) > 0 {
			w.find(c, rule, unsaid, Closes, "the rule is left out")
		}
		return
	}
	if len(unsaid) > 0 {
		effect, did := Closes, "it stops packets without that condition"
		if action == model.ActionLog {
			effect, did = Same, "it logs without that condition"
		}
		w.find(c, rule, unsaid, effect, did)
	}
	for _, b := range hit {
		w.emit(b, action, rule.line)
	}
}

func (w *walker) find(c *chain, rule *saveRule, unsaid []string, effect Effect, did string) {
	w.save.findAt(rule.line, "chain "+c.name, strings.Join(unsaid, ", "), effect, "is a condition that a policy does not know", did)
}

// neverFirst reports rules about later packets of a connection, or about packets
// of none.
func (w *walker) neverFirst(c *chain, rule *saveRule) {
	object := "chain " + c.name
	switch {
	case rule.target == "ACCEPT" && containsAny(rule.state, "ESTABLISHED", "RELATED"):
		// Said by stateful; see answersPass.
	case rule.target == "ACCEPT":
		w.save.findAt(rule.line, object, rule.target, Closes, "lets packets pass that begin no connection", "the rule is left out")
	default:
		w.save.findAt(rule.line, object, rule.target, Same, "is about packets that begin no connection", "the rule is left out: such a packet passes only where one that begins a connection would")
	}
}

func containsAny(list []string, words ...string) bool {
	return slices.ContainsFunc(list, func(l string) bool { return slices.Contains(words, l) })
}

// otherTarget is one that is no verdict here.
func (w *walker) otherTarget(c *chain, rule *saveRule, hit []box) {
	object := "chain " + c.name
	switch rule.target {
	case "", "MARK", "CONNMARK", "SECMARK", "CONNSECMARK", "CLASSIFY", "SET", "TRACE", "NOTRACK", "CT", "TOS", "DSCP", "TTL", "HL", "TCPMSS", "AUDIT", "IDLETIMER", "LED", "RATEEST":
		w.save.findAt(rule.line, object, "-j "+rule.target, Same, "decides nothing", "the rule is left out")
	default:
		w.save.findAt(rule.line, object, "-j "+short(rule.target), Closes, "leaves the decision to something weft does not know", "the packets are denied")
		for _, b := range hit {
			w.emit(b, model.ActionDeny, rule.line)
		}
	}
}

// emit writes the rule for a box.
func (w *walker) emit(b box, action model.Action, line int) {
	if w.selfDone && b.lo == onlyLoopback {
		return
	}
	whole := len(w.save.family.without(b.addr)) == 0
	var peers []model.PolicyPeer
	switch {
	case b.lo == onlyLoopback && whole:
		peers = []model.PolicyPeer{{Entities: []model.Entity{model.EntitySelf}}}
		w.selfDone = w.selfDone || b.services.whole() && action != model.ActionLog
		w.save.findAt(line, "device lo", "lo", Same, "is the device for packets of the machine to itself, of one family", "it is the entity self, of both")
	case b.lo == anyDevice || b.lo == notLoopback && w.selfDone:
		peers = b.addr.peers()
	case action == model.ActionAllow:
		w.save.findAt(line, "device lo", "lo", Closes, "stands beside an address, or is negated; a policy knows only the machine itself as a whole", "the rule is left out")
		return
	default:
		effect := Closes
		if action == model.ActionLog {
			effect = Same
		}
		w.save.findAt(line, "device lo", "lo", effect, "stands beside an address, or is negated; a policy knows only the machine itself as a whole", "the rule is for every device")
		peers = b.addr.peers()
	}
	w.write(line, action, b, peers)
}

// write writes the rule for a box whose peers are known; what it allows is
// tracked or not, depending on the peer.
func (w *walker) write(line int, action model.Action, b box, peers []model.PolicyPeer) {
	ports, zero := b.services.ports()
	if zero && action != model.ActionAllow && action != model.ActionLog {
		w.save.findAt(line, "port 0", "--dport", Opens, "stops port 0 too, which no service has", "port 0 is not stopped by this rule: a policy cannot name it")
	}
	if len(ports) == 0 && !b.services.whole() {
		return
	}
	side := "from"
	if w.egress {
		side = "to"
	}
	add := func(peers []model.PolicyPeer, stateless bool) {
		if len(peers) > 0 {
			w.out = append(w.out, ordered{rule: sided(model.PolicyRule{Name: fmt.Sprintf("line-%d", line), Action: action, Ports: ports}, side, peers), stateless: stateless})
		}
	}
	if len(peers[0].IPBlocks) > 0 && action == model.ActionAllow && len(w.untracked) > 0 {
		add(b.addr.without(w.untracked).peers(), false)
		add(b.addr.and(w.untracked).peers(), true)
	} else {
		add(peers, false)
	}
	if len(w.out) > maxRules/10 {
		w.save.run.fault(w.save.file, line, "", "makes more than %d rules; chains are followed each time they are called", maxRules/10)
	}
}
