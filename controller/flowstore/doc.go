// Package flowstore keeps what agents report of connections and answers questions
// about it. A report is kept once: with each batch goes its number, in the same
// transaction, and a batch that comes again is known by that.
//
// Both ends of a connection report it. Each report is a row; the one that counts
// in sums is the caller's, or the other's where the caller has no agent.
package flowstore
