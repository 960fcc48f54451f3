package datapath

import (
	"weft/agent/connection"
	"weft/policy"
)

// The connection table is read by others too, so its nouns are apart.
type (
	Connection = connection.Line
	Key        = connection.Key
	Count      = connection.Count
	Process    = connection.Process
	PeerBy     = connection.PeerBy
	TCPState   = connection.TCPState
)

// See the package connection.
const (
	ByAddress      = connection.ByAddress
	BySocket       = connection.BySocket
	ByOption       = connection.ByOption
	ByPort         = connection.ByPort
	TCPNone        = connection.TCPNone
	TCPSynSent     = connection.TCPSynSent
	TCPSynReceived = connection.TCPSynReceived
	TCPEstablished = connection.TCPEstablished
	TCPClosing     = connection.TCPClosing
	TCPClosed      = connection.TCPClosed
)

// RuleCount is what a rule has done since the driver's state was made.
type RuleCount struct {
	Rule policy.RuleID // 0: defaults
	// Connections were judged by the rule. Packets and Bytes are those it let
	// through both ways, or turned down.
	Connections, Packets, Bytes uint64
}
