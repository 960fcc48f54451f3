// Package policy says what becomes of a packet. It holds the reference
// semantics (World.Evaluate), the compiled form a datapath loads (Compile), an
// engine over that form (Engine), and what makes a policy safe to switch on:
// Explain, Diff and Replay.
//
// It is pure: no I/O, no clock, no goroutine. README.md beside the code states
// the invariants.
package policy
