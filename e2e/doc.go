// Package e2e shows, with the real programs in a lab, what a person meets when
// something is wrong: bad input, foreign devices, tokens that do not fit, clocks
// that are off, full disks, killed programs, partitions. Each test asks for the
// exact outcome: a message that names place and remedy, or a loss that is
// counted; and never a hang, a silence or a harmed workload.
//
// The programs are those of the directory WEFT_BIN; where that is not set they
// are built once. All tests need root.
package e2e
