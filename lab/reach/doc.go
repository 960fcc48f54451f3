// Package reach tries, with real traffic in a running lab, who reaches whom, and
// compares it with a table that a person wrote. It knows nothing of what lets
// packets through or not: weft's agents with any driver, a firewall of the
// topology, or nothing at all.
//
// A worker runs at each place that a table names: the caller's own program, in
// the place's network namespace and cgroup. It listens where others are to come
// and calls where it is told. It ends when its standard input does, so that
// nothing outlives the caller.
//
//	table, err := reach.Parse("reach.table", text)
//	probes, err := table.Probes(l.Places())
//	report, err := reach.Run(ctx, reach.Config{Worker: argv}, probes)
package reach
