// Package monitor samples what a machine is doing: processors, memory, disks, file
// systems, interfaces, sensors, containers and units, processes. It reads /proc and
// /sys, and the control groups of either version.
//
// It is read every second or two on every machine, so that its own cost counts:
// one buffer takes all files, lines are read where they lie, and a process that
// was there before costs one short file and no allocation. What seldom changes (a
// command line, an owner, a control group) is read when a process is new and, in
// turns, every few samples; disk figures of a process that used no processor time
// are read in turns too.
//
// All that it reads is hostile: a process chooses its name and command line, and
// may end, or give its number to another, between two reads. Counters that go back
// give a rate of 0, and time is that of a clock that nobody sets.
package monitor
