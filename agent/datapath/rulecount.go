package datapath

import "weft/policy"

// RuleCount is what a rule has done since the driver's state was made.
type RuleCount struct {
	Rule policy.RuleID // 0: defaults
	// Connections were judged by the rule. Packets and Bytes are those it let
	// through both ways, or turned down.
	Connections, Packets, Bytes uint64
}
