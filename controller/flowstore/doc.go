// Package flowstore keeps what agents report of connections and answers questions
// about it, with DuckDB or ClickHouse. A report is kept once: what says that it
// counts goes with the number of its batch, and a batch that comes again is known
// by that.
//
// Both ends of a connection report it. Each report is a row; the one that counts
// in sums is the caller's, or the other's where the caller has no agent. Sums over
// minutes and hours are kept longer than reports are.
package flowstore
