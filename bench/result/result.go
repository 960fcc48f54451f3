// Package result is the common form of a benchmark's figures: one JSON line a
// cell, with the median and the spread over several runs.
package result

import (
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Cell is one figure of one program.
type Cell struct {
	Bench  string  `json:"bench"` // "L1", "A1", ...
	Name   string  `json:"name"`
	Peer   string  `json:"peer"` // "weft", or the program that ran beside it
	Unit   string  `json:"unit"`
	Median float64 `json:"median"`
	IQR    float64 `json:"iqr"`
	Runs   int     `json:"runs"`
	// Ratio is weft's median divided by the peer's, on the peer's line.
	Ratio  float64 `json:"ratio,omitempty"`
	Note   string  `json:"note,omitempty"`
	Kernel string  `json:"kernel"`
	Commit string  `json:"commit"`
}

// New sums up the runs of one figure.
func New(bench, name, peer, unit string, runs []float64) Cell {
	sorted := slices.Clone(runs)
	slices.Sort(sorted)
	return Cell{Bench: bench, Name: name, Peer: peer, Unit: unit, Runs: len(runs),
		Median: quantile(sorted, 0.5), IQR: quantile(sorted, 0.75) - quantile(sorted, 0.25),
		Kernel: kernel(), Commit: commit()}
}

// quantile interpolates linearly between the two nearest of sorted values.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 == len(sorted) {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// Write prints the cells, one JSON line each.
func Write(w io.Writer, cells ...Cell) error {
	enc := json.NewEncoder(w)
	for _, c := range cells {
		if err := enc.Encode(c); err != nil {
			return fmt.Errorf("write cell: %w", err)
		}
	}
	return nil
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	// Only the version: the rest names the machine.
	release := unix.ByteSliceToString(u.Release[:])
	version, _, _ := strings.Cut(release, "-")
	return version
}

func commit() string {
	out, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
