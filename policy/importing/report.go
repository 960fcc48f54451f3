package importing

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Effect says how what was done differs from the source.
type Effect string

// The effects.
const (
	Same   Effect = "same"   // packets fare as before; something else is worth knowing
	Closes Effect = "closes" // some packets that passed no longer do
	Opens  Effect = "opens"  // some packets that were stopped may pass
)

// Finding is one thing that a policy does not say as the source does.
type Finding struct {
	File   string `json:"file"`
	Line   int    `json:"line"`   // from 1; 0 for the whole file
	Object string `json:"object"` // "NetworkPolicy shop/web"
	Field  string `json:"field"`  // "spec.ingress[0].ports[1].port"
	Means  string `json:"means"`  // what the source says there
	Did    string `json:"did"`    // what weft does instead
	Effect Effect `json:"effect"`
}

// Report is every finding, in the order of files and lines.
type Report []Finding

// Has says whether a finding has the effect.
func (r Report) Has(e Effect) bool {
	for _, f := range r {
		if f.Effect == e {
			return true
		}
	}
	return false
}

// String is the report as a table, empty where there is nothing to say.
func (r Report) String() string {
	if len(r) == 0 {
		return ""
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHERE\tEFFECT\tOBJECT\tFIELD\tMEANS\tINSTEAD")
	for _, f := range r {
		fmt.Fprintf(w, "%s:%d\t%s\t%s\t%s\t%s\t%s\n", oneLine(f.File), f.Line, f.Effect, oneLine(f.Object), oneLine(f.Field), oneLine(f.Means), oneLine(f.Did))
	}
	w.Flush() //nolint:errcheck // a strings.Builder
	return b.String()
}

// oneLine keeps text of a file from breaking the table or the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// Fault is something in a file that cannot be what its author meant: no policy
// is made then.
type Fault struct {
	File    string
	Line    int
	Field   string
	Message string // with the remedy
}

func (f Fault) String() string {
	if f.Field == "" {
		return fmt.Sprintf("%s:%d: %s", oneLine(f.File), f.Line, f.Message)
	}
	return fmt.Sprintf("%s:%d: %s: %s", oneLine(f.File), f.Line, oneLine(f.Field), f.Message)
}

// Faults is every fault of every file.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i := range f {
		lines[i] = f[i].String()
	}
	return strings.Join(lines, "\n")
}
