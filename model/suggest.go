package model

import (
	"fmt"
	"strings"
)

// suggest returns ` (did you mean "x"?)` for the name nearest to a wrong one, or
// nothing where none is near.
func suggest(wrong string, names []string) string {
	best, at := "", len(wrong)/3+1
	for _, n := range names {
		if d := distance(strings.ToLower(wrong), strings.ToLower(n)); d <= at && (best == "" || d < at) {
			best, at = n, d
		}
	}
	if best == "" || wrong == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	if len(a) > MaxName || len(b) > MaxName {
		return max(len(a), len(b))
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j]+1, row[j+1]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
