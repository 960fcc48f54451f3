// Package importing turns the rules of other systems into policies of weft:
// Kubernetes, Calico, iptables, security groups of AWS and OpenStack.
//
// It is pure: bytes in, policies and a report out. What a policy cannot say is
// in the report, and then less is allowed than was, never more: a rule that
// allows is left out, one that denies takes more. The few things that cannot be
// closed without cutting a machine off say so (Opens), for the caller to refuse.
//
// The policies decide every packet that the source decides, with rules and not
// by the subject's mode: they mean the same in Observe, Selective and Enforce.
package importing
