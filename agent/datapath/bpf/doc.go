// Package bpf is the datapath driver that judges at each socket: programs
// attached once at the machine's cgroup root look up the subject that a packet's
// socket belongs to, and its tables. Everything is pinned and outlives the agent.
//
//	cgroup_skb ──▶ connection table ──hit, same revision──▶ verdict
//	                    │ miss, or the state has changed
//	                    ▼
//	  cgroup ─▶ slot ─▶ table ─▶ classes ─▶ chains ─▶ merge by rank ─▶ verdict
package bpf
