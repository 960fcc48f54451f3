package main

import (
	"fmt"
	"os"
	"os/exec"

	"weft/bench/result"
)

// firewall judges what reaches the receiver of a site: what no rule allows is
// dropped, what belongs to an allowed connection passes.
type firewall interface {
	// replace prepares to put rules in the place of all before them and returns
	// what does it, which is what gets timed.
	replace(rules []rule) (func() error, error)
	// add does so for one rule more.
	add(r rule) func() error
	// forget empties the connection table.
	forget() error
	// close takes away what would outlive the site.
	close() error
}

// contender is a kind of firewall.
type contender struct {
	name  string
	needs string // a program
	raise func(*site) (firewall, error)
	// connections and changes: takes part in S2 and S3.
	connections, changes bool
	// most is how many rules it is given; 0 is no limit.
	most int
}

// The names of the figures' programs.
const (
	none     = "no firewall"
	weftBPF  = result.Ours
	weftNFT  = "weft, nftables driver"
	byLegacy = "iptables-legacy"
	byNFT    = "iptables-nft"
	bySet    = "ipset"
	byMap    = "nft, map of verdicts"
)

var contenders = []contender{
	{name: weftBPF, raise: raiseBPF, connections: true, changes: true},
	// With an address of its own for each rule it takes a second to load 10,000
	// and more than a minute to load 100,000.
	{name: weftNFT, raise: raiseNFT, connections: true, most: 10_000},
	{name: byLegacy, needs: "iptables-legacy-restore", raise: raiseTables("iptables-legacy-restore")},
	{name: byNFT, needs: "iptables-nft-restore", raise: raiseTables("iptables-nft-restore"), connections: true},
	{name: bySet, needs: "ipset", raise: raiseSet, changes: true},
	{name: byMap, needs: "nft", raise: raiseMap, connections: true, changes: true},
}

// present are the contenders that can run here.
func present() []contender {
	var out []contender
	for _, c := range contenders {
		if c.needs != "" {
			if _, err := exec.LookPath(c.needs); err != nil {
				fmt.Fprintf(os.Stderr, "bench/firewall: %s is not on PATH: left out\n", c.needs)
				continue
			}
		}
		out = append(out, c)
	}
	return out
}

// load puts rules into an empty firewall.
func load(f firewall, rules []rule) error {
	put, err := f.replace(rules)
	if err != nil {
		return err
	}
	return put()
}
