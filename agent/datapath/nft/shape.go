package nft

import (
	"fmt"

	"github.com/google/nftables/expr"

	"weft/policy"
)

// shape is all that the rules, other than the content of sets, depend on.
type shape struct {
	// base says that a socket that no cgroup gives to a subject has one.
	base bool
	// levels of the subjects' cgroups, deepest first; none where the namespace
	// has one subject.
	levels string
	// epoch of the labels: those of an older one do not count.
	epoch uint32
}

// program is the rules of each chain.
type program map[string][][]expr.Any

func (p program) add(chain string, parts ...[]expr.Any) {
	var rule []expr.Any
	for _, part := range parts {
		rule = append(rule, part...)
	}
	p[chain] = append(p[chain], rule)
}

// Base chains, one for each hook.
const (
	chainOutput = "output"
	chainInput  = "input"
)

// program writes the rules. Where a rule that ends in a lookup of a verdict
// stands twice, the second serves a packet whose first met a change halfway.
func (s shape) program() program {
	p := program{}
	for _, hook := range []struct {
		chain string
		role  policy.Direction // of what opens a connection here
	}{{chainOutput, policy.Egress}, {chainInput, policy.Ingress}} {
		alone := "alone-" + hook.role.String()
		for _, f := range ownErrors(hook.role) {
			p.add(hook.chain, f...)
		}
		p.add(hook.chain, ctState(expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), jump(alone))
		p.add(hook.chain, ctAnswer(), jump(other(hook.role).String()))
		p.add(hook.chain, jump(hook.role.String()))
		for _, f := range []uint8{family4, family6} {
			for _, icmp := range []bool{true, false} {
				leaf := fmt.Sprintf("%s-%d", alone, f)
				match := familyIs(f)
				if icmp {
					leaf += "-icmp"
					match = append(match, l4Is(icmpOf(f))...)
				}
				p.add(alone, match, jump(leaf))
				s.leaf(p, leaf, hook.role, isAlone, peerOfPacket(f, hook.role), portOfPacket(icmp))
			}
		}
		p.add(alone, drop())
	}
	for _, role := range roles {
		s.tracked(p, role)
		s.ends(p, role)
	}
	return p
}

// tracked writes the chains for packets of connections.
func (s shape) tracked(p program, role policy.Direction) {
	name := role.String()
	p.add(name, ctState(expr.CtStateBitNEW), jump(name+"-new"))
	p.add(name, jump(name+"-known"))
	if s.levels != "" {
		p.add(name+"-new", labelEmpty(role), call("label-"+name))
		for i := range len(s.levels) {
			p.add("label-"+name, giveLabel(role, uint32(s.levels[i]), s.epoch), back())
		}
	}
	for kind, suffix := range map[int]string{isNew: "-new", isKnown: "-known"} {
		for _, protocol := range []uint8{1, 58} {
			p.add(name+suffix, ctProtocolIs(protocol), jump(name+suffix+"-icmp"))
		}
		s.leaf(p, name+suffix+"-icmp", role, kind, peerOfConnection(role), portOfConnection(true))
		s.leaf(p, name+suffix, role, kind, peerOfConnection(role), portOfConnection(false))
	}
}

// leaf writes the rules that judge.
func (s shape) leaf(p program, chain string, role policy.Direction, kind int, peer, port []expr.Any) {
	judge := func(view []expr.Any) {
		for range 2 {
			p.add(chain, view, peer, classOf(), port, verdict(kind))
		}
	}
	if s.levels != "" {
		if kind != isAlone {
			judge(viewByLabel(role))
		}
		for i := range len(s.levels) {
			judge(viewByCgroup(role, uint32(s.levels[i])))
		}
	}
	if s.base {
		judge(viewOfBase(role))
		p.add(chain, drop())
	} else {
		p.add(chain, accept())
	}
}

// ends writes the chains in which packets end.
func (s shape) ends(p program, role policy.Direction) {
	name := role.String()
	for _, answer := range []struct{ suffix, end string }{{"", ""}, {"-Deny", "drop-" + name}, {"-Reject", "reject-" + name}} {
		chain := "answer-" + name + answer.suffix
		p.add(chain, ctAnswer(), jump("alone-"+other(role).String()))
		if answer.end == "" {
			p.add(chain, accept())
		} else {
			p.add(chain, jump(answer.end))
		}
	}
	p.add("drop-"+name, remember(role))
	p.add("drop-"+name, drop())
	p.add("reject-"+name, remember(role))
	p.add("reject-"+name, l4Is(6), reject(true))
	p.add("reject-"+name, reject(false))
	p.add("reject-"+name, drop())
}
