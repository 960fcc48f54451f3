package nft

import (
	"os/exec"
	"testing"

	"weft/agent/datapath"
	"weft/agent/datapath/datapathtest"
)

// The cases that every driver is tried with. A peer is told by its address only,
// processes and names are refused.
func TestConformance(t *testing.T) {
	var site *datapathtest.Site
	options := datapathtest.Options{Rejects: true, Pings: true, Tamper: func(t *testing.T, n int) bool {
		for i, command := range []string{"nft flush ruleset", "nft delete chain inet weft input || nft flush chain inet weft input"} {
			if i == n {
				if out, err := exec.Command("nsenter", "--net="+site.Endpoint("c1").NetNS, "sh", "-c", command).CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", command, err, out)
				}
				return true
			}
		}
		return false
	}}
	datapathtest.Run(t, options, func(_ *testing.T, s *datapathtest.Site) datapath.Driver {
		site = s
		return New(Config{NetNS: s.Machine})
	})
}
