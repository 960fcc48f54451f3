package topology

import (
	"fmt"
	"strings"
	"testing"

	"weft/internal/golden"
)

// text prints all that a plan decides.
func text(p *Plan) string {
	var b strings.Builder
	for _, s := range p.Switches {
		fmt.Fprintf(&b, "switch %s %s mtu %d\n", s.Name, s.Subnet, s.MTU)
	}
	for _, n := range p.Nodes {
		fmt.Fprintf(&b, "%s\n", n.Name)
		for _, port := range n.Ports {
			fmt.Fprintf(&b, "  %s %s %s mtu %d\n", port.Device, port.Link, port.Address, port.MTU)
		}
		for _, r := range n.Routes {
			dst := "default"
			if r.Dst.IsValid() {
				dst = r.Dst.String()
			}
			fmt.Fprintf(&b, "  route %s via %s\n", dst, r.Via)
		}
		for _, m := range n.Public {
			fmt.Fprintf(&b, "  public %s is %s\n", m.Outer, m.Inner)
		}
		for _, e := range p.Names(n) {
			fmt.Fprintf(&b, "  name %s %s\n", e.Addr, strings.Join(e.Names, " "))
		}
	}
	return b.String()
}

func TestPlanOfExamples(t *testing.T) {
	for _, name := range []string{"hybrid", "two-hosts"} {
		topo, err := Load("../../examples/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		p, err := topo.Plan()
		if err != nil {
			t.Fatal(err)
		}
		golden.Equal(t, name+".plan", text(p))
	}
}
