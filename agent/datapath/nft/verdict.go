package nft

import (
	"fmt"

	"weft/model"
	"weft/policy"
	"weft/policy/classify"
)

// outcome is a verdict as the kernel tells them apart. Comparable.
type outcome struct {
	Role     policy.Direction
	Action   model.Action
	Rule     policy.RuleID
	Logged   policy.RuleID
	Stateful bool
}

func outcomeOf(role policy.Direction, v classify.Verdict) outcome {
	o := outcome{Role: role, Action: v.Action, Stateful: v.Stateful}
	if v.Rule != nil {
		o.Rule = v.Rule.ID
	}
	if v.Logged != nil {
		o.Logged = v.Logged.ID
	}
	return o
}

func (o outcome) key() string {
	return fmt.Sprintf("%d %s %s %s %t", o.Role, o.Action, o.Rule, o.Logged, o.Stateful)
}

// The kinds of packets a verdict can meet, each with its own map of verdicts.
const (
	isNew   = iota // of a connection that has had no answer
	isKnown        // of one that has
	isAlone        // of none: judged as it is
)

var verdictMaps = [3]string{"verdicts-new", "verdicts-known", "verdicts-alone"}

// target is the chain a packet goes to, empty for acceptance.
func (o outcome) target(kind int) string {
	end := ""
	switch o.Action {
	case model.ActionDeny:
		end = "drop-" + o.Role.String()
	case model.ActionReject:
		end = "reject-" + o.Role.String()
	}
	if kind != isAlone && !o.Stateful {
		// The answers of what is not tracked are judged as they are.
		if end = "answer-" + o.Role.String() + "-" + string(o.Action); o.Action == model.ActionAllow {
			end = "answer-" + o.Role.String()
		}
	}
	if o.Logged != 0 && kind != isKnown {
		return logChain(o.Logged, end)
	}
	return end
}

func logChain(rule policy.RuleID, next string) string {
	if next == "" {
		next = "accept"
	}
	return "log-" + rule.String() + "-" + next
}

func other(d policy.Direction) policy.Direction { return 1 - d }

var roles = [2]policy.Direction{policy.Ingress, policy.Egress}
