// Package classify turns a compiled ruleset into the tables a datapath looks
// things up in: a few lookups for each new connection, whatever the number of
// rules.
//
// A peer has one class in each of five dimensions: what holds for every peer,
// its identity, the block its address is in, the special entities it is, and
// the names its address was looked up by. A class is a longest-prefix table
// over protocol and port whose values are chains: the rules that match, in
// their order, cut where nothing later could count. The chains of the five
// classes are merged by rank; the first final rule whose processes match
// decides.
//
//	identity ─┐
//	address  ─┤  class   (class, protocol, port)  chain
//	entities ─┼────────▶ longest prefix ────────▶ r3 r17 ─┐
//	names    ─┤                                           ├─ merge by rank ─▶ verdict
//	(every)  ─┘                                           │
//
// So tables add up where rules name different things, and never multiply.
//
// A table is made from the one before (Update) and shares with it whatever is not
// edited. Ranks have gaps, so that a rule keeps its own.
package classify
