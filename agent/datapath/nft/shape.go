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
		for _, f := range ownErrors(hook.role) {
			p.add(hook.chain, f...)
		}
		p.add(hook.chain, ctState(expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), jump("alone-"+hook.role.String()))
		p.add(hook.chain, ctAnswer(), jump(other(hook.role).String()+"-answer"))
		p.add(hook.chain, jump(hook.role.String()))
	}
	for _, role := range roles {
		name := role.String()
		p.add(name, ctState(expr.CtStateBitNEW), jump(name+"-new"))
		p.add(name, jump(name+"-known"))
		p["label-"+name] = nil
		if s.levels != "" {
			p.add(name+"-new", labelEmpty(role), call("label-"+name))
			for i := range len(s.levels) {
				p.add("label-"+name, giveLabel(role, uint32(s.levels[i]), s.epoch), back())
			}
		}
		s.judges(p, "alone-"+name, role, isAlone, false)
		s.judges(p, name+"-new", role, isNew, false)
		s.judges(p, name+"-known", role, isKnown, false)
		s.judges(p, name+"-answer", role, isKnown, true)
		s.ends(p, role)
	}
	return p
}

// judges writes a chain that judges packets by the family, and by whether they
// are of ICMP: of a query, or an error about another packet.
func (s shape) judges(p program, chain string, role policy.Direction, kind int, answer bool) {
	for _, f := range []uint8{family4, family6} {
		icmp := fmt.Sprintf("%s-%d-icmp", chain, f)
		plain := fmt.Sprintf("%s-%d", chain, f)
		p.add(chain, l4Is(f, icmpOf(f)), jump(icmp))
		p.add(chain, familyIs(f), jump(plain))
		toPeer := role == policy.Egress != answer // the peer is where the packet goes
		if kind == isKnown {
			about := icmp + "-error"
			p.add(icmp, ctState(expr.CtStateBitRELATED), jump(about))
			p.add(about, ctProtocolIs(icmpOf(f)), jump(about+"-icmp"))
			// What an error is about went the other way.
			s.leaf(p, about+"-icmp", role, kind, peerOfQuoted(f, !toPeer), portOfQuery())
			s.leaf(p, about, role, kind, peerOfQuoted(f, !toPeer), portOfConnection())
		}
		port := portOfPacket(0)
		if kind != isAlone {
			port = portOfQuery()
		}
		s.leaf(p, icmp, role, kind, peerOfPacket(f, toPeer), port)
		offset := uint32(2)
		if answer {
			offset = 0
		}
		s.leaf(p, plain, role, kind, peerOfPacket(f, toPeer), portOfPacket(offset))
	}
	p.add(chain, drop())
}

// leaf writes the rules that judge.
func (s shape) leaf(p program, chain string, role policy.Direction, kind int, peer, port []expr.Any) {
	judge := func(view []expr.Any) {
		for range 2 {
			p.add(chain, view, peer, classOf(), port, verdict(kind))
		}
	}
	if s.levels != "" {
		// What is judged as it is though it has a connection is an answer: who
		// sends it is who the connection came to.
		end := role
		if kind == isAlone {
			end = other(role)
		}
		judge(viewByLabel(role, end))
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
	if role == policy.Ingress {
		// What the kernel itself says to the sender of what is rejected: over
		// loopback the connection is known by then.
		for _, chain := range []string{"reject-" + name, "answer-" + name + "-Reject"} {
			for _, said := range [][]expr.Any{tcpReset(), ctState(expr.CtStateBitRELATED)} {
				p.add(chain, leaving(), ctAnswer(), said, ofUser(), drop())
				p.add(chain, leaving(), ctAnswer(), said, accept())
			}
		}
	}
	for _, answer := range []struct{ suffix, end string }{{"", ""}, {"-Deny", "drop-" + name}, {"-Reject", "reject-" + name}} {
		chain := "answer-" + name + answer.suffix
		p.add(chain, ctAnswer(), jump("alone-"+other(role).String()))
		if answer.end == "" {
			p.add(chain, accept())
		} else {
			p.add(chain, jump(answer.end))
		}
	}
	for _, chain := range []string{"drop-" + name, "reject-" + name} {
		for _, f := range []uint8{family4, family6} {
			p.add(chain, remember(f, role))
		}
	}
	p.add("drop-"+name, drop())
	p.add("reject-"+name, tcp(), reject(true))
	p.add("reject-"+name, reject(false))
	p.add("reject-"+name, drop())
}
