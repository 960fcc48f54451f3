package show

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"weft/internal/golden"
	"weft/lab/reach"
)

// Many probes are printed as squares, few as a list; both fit the screen.
func TestReach(t *testing.T) {
	var b strings.Builder
	for _, many := range []int{3, 30} {
		r := Reach{Width: 80, Took: 1234 * time.Millisecond}
		for i := range many {
			for j := range many {
				p := &reach.Probe{From: fmt.Sprintf("host-with-a-name-%d", i), To: fmt.Sprintf("host-with-a-name-%d", j), Service: "tcp/80", Expected: reach.Deny, Actual: reach.Deny, Target: "192.0.2.1:80", Line: 1}
				switch {
				case i == j:
					continue
				case (i+j)%7 == 0:
					p.Expected, p.Actual = reach.Allow, reach.Allow
				case (i+j)%5 == 0:
					p.Target, p.Actual = "", ""
				case i == 2 && j == 1:
					p.Actual, p.Detail = reach.Reject, "connect: connection refused by somebody far away whose name is long"
				}
				r.Probes = append(r.Probes, p)
			}
		}
		failed, err := r.Print(&b)
		if err != nil || failed != 1 {
			t.Errorf("%d fail, %v; want 1", failed, err)
		}
		b.WriteString("----\n")
	}
	for line := range strings.Lines(b.String()) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	golden.Equal(t, "reach.golden", b.String())
}
