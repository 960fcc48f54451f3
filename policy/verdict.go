package policy

import (
	"fmt"
	"hash/fnv"

	"weft/model"
)

// Reason says what decided.
type Reason string

// The reasons.
const (
	ByRule      Reason = "rule"
	ByDefault   Reason = "default"   // no rule did; the subject's mode decides
	ByNoSubject Reason = "unmanaged" // the end is no workload, nothing is enforced there
)

// Verdict is what one end says to a packet. Verdicts can be compared with ==.
type Verdict struct {
	Action model.Action // Allow, Deny or Reject
	Reason Reason
	// Tier, Policy, Rule (its name or "#INDEX") and ID are set for ByRule.
	Tier   model.Tier
	Policy string
	Rule   string
	ID     RuleID
	// Mode of the subject, for ByDefault.
	Mode model.Mode
	// Stateful says that the connection is tracked and its answers pass.
	Stateful bool
	// Logged is the first Log rule that matched on the way, or 0.
	Logged RuleID
}

// Allowed says whether the packet goes on.
func (v Verdict) Allowed() bool { return v.Action == model.ActionAllow }

func (v Verdict) String() string {
	switch v.Reason {
	case ByRule:
		state := ""
		if !v.Stateful {
			state = ", stateless"
		}
		return fmt.Sprintf("%s by %s/%s/%s%s", v.Action, v.Tier, v.Policy, v.Rule, state)
	case ByDefault:
		return fmt.Sprintf("%s by default (%s)", v.Action, v.Mode)
	}
	return fmt.Sprintf("%s (no workload of weft, nothing is enforced there)", v.Action)
}

// RuleID names a rule for as long as its policy's name, its direction and its
// name (its index where it has none) stay; other changes do not move it.
type RuleID uint64

func (id RuleID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

func ruleLabel(r *model.PolicyRule, index int) string {
	if r.Name != "" {
		return r.Name
	}
	return fmt.Sprintf("#%d", index)
}

// MakeRuleID returns the id of a rule. Failsafe policies may share a name with
// those of a person and still differ.
func MakeRuleID(p *model.Policy, d Direction, index int) RuleID {
	h := fnv.New64a()
	fmt.Fprintf(h, "%t\x00%s\x00%s\x00%s", p.Spec.Tier == model.TierFailsafe, p.Metadata.Name, d, ruleLabel(&rulesOf(p, d)[index], index))
	if id := RuleID(h.Sum64()); id != 0 {
		return id
	}
	return 1
}

func unmanagedVerdict() Verdict {
	return Verdict{Action: model.ActionAllow, Reason: ByNoSubject, Stateful: true}
}

// Joint is the verdict of both ends. The sender is asked first.
type Joint struct{ Egress, Ingress Verdict }

// Action returns what becomes of the packet.
func (j Joint) Action() model.Action {
	if !j.Egress.Allowed() {
		return j.Egress.Action
	}
	return j.Ingress.Action
}
