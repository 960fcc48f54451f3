package lab

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"

	"weft/lab/netns"
	"weft/lab/topology"
)

// applyRules loads an nftables script in a namespace, as one transaction.
func applyRules(ns, script string) error {
	return netns.Do(ns, func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("load nftables rules (is the package nftables installed?): %w: %s", err, strings.TrimSpace(stderr.String()))
		}
		return nil
	})
}

// routerRules is the script for a router that translates or filters, or "".
func routerRules(n *topology.Node) string {
	r := n.Router
	fw := r.Firewall
	if !n.Translates() && fw == nil {
		return ""
	}
	if fw == nil {
		fw = &topology.Firewall{}
	}
	var b strings.Builder
	b.WriteString("table ip lab {\n")
	up := ""
	if port := n.Uplink(); port != nil {
		up = port.Device
	}
	if n.Translates() {
		writeNAT(&b, n, up)
	}
	b.WriteString(" chain forward {\n  type filter hook forward priority filter; policy accept;\n  ct state established,related accept\n")
	if up != "" {
		b.WriteString("  iifname \"" + up + "\" ct status dnat accept\n")
		if fw.Inbound == "blocked" || fw.Inbound == "" && n.Translates() {
			b.WriteString("  iifname \"" + up + "\" counter drop\n")
		}
		// What stays between downlinks is not the firewall's business.
		b.WriteString("  oifname != \"" + up + "\" accept\n")
	}
	if fw.UDP == "blocked" {
		b.WriteString("  meta l4proto udp counter drop\n")
	}
	if fw.ICMP == "blocked" {
		b.WriteString("  meta l4proto icmp counter drop\n")
	}
	if len(fw.OnlyTCP) > 0 {
		ports := strings.Trim(strings.Join(strings.Fields(fmt.Sprint(fw.OnlyTCP)), ", "), "[]")
		b.WriteString("  meta l4proto tcp tcp dport != { " + ports + " } counter drop\n")
	}
	b.WriteString(" }\n}\n")
	return b.String()
}

func writeNAT(b *strings.Builder, n *topology.Node, up string) {
	outer := n.Uplink().Address.Addr()
	b.WriteString(" chain prerouting {\n  type nat hook prerouting priority dstnat;\n")
	for _, f := range n.Forward {
		fmt.Fprintf(b, "  ip daddr %s %s dport %d dnat to %s:%d\n", outer, f.Protocol, f.OuterPort, f.Inner, f.Port)
	}
	for _, m := range n.Public {
		fmt.Fprintf(b, "  ip daddr %s dnat to %s\n", m.Outer, m.Inner)
	}
	b.WriteString(" }\n chain postrouting {\n  type nat hook postrouting priority srcnat;\n")
	for _, m := range n.Public {
		fmt.Fprintf(b, "  oifname \"%s\" ip saddr %s snat to %s\n", up, m.Inner, m.Outer)
	}
	// An ordinary masquerade keeps the source port where it can, so one local
	// port is one outer port whatever the destination. The hard flavour draws
	// anew for each connection.
	flags := ""
	if n.Router.NAT == topology.NATHard {
		flags = " random,fully-random"
	}
	fmt.Fprintf(b, "  oifname \"%s\" masquerade%s\n", up, flags)
	// Hairpin: a neighbour reached by its outer address must answer through us.
	for _, port := range n.Ports {
		if !port.Uplink {
			fmt.Fprintf(b, "  ip saddr %s oifname != \"%s\" ct status dnat masquerade\n", port.Address.Masked(), up)
		}
	}
	b.WriteString(" }\n")
	// The router itself has no open ports outside; it answers pings only.
	fmt.Fprintf(b, " chain input {\n  type filter hook input priority filter; policy accept;\n  iifname \"%s\" meta l4proto { tcp, udp } ct state new drop\n }\n", up)
}

// containerRules is the script for a host's bridge: what a container engine
// loads. It replaces whatever an earlier call loaded.
func containerRules(containers []*Container) string {
	var b strings.Builder
	b.WriteString("table ip lab-containers {}\ndelete table ip lab-containers\ntable ip lab-containers {\n")
	var dnat strings.Builder
	for _, c := range containers {
		for _, p := range c.spec.Publish {
			fmt.Fprintf(&dnat, "  fib daddr type local %s dport %d dnat to %s:%d\n", p.Protocol, p.HostPort, c.address, p.Port)
		}
	}
	fmt.Fprintf(&b, " chain prerouting {\n  type nat hook prerouting priority dstnat;\n%s }\n", dnat.String())
	fmt.Fprintf(&b, " chain output {\n  type nat hook output priority -100;\n%s }\n", strings.ReplaceAll(dnat.String(), "fib daddr type local", "ip daddr != 127.0.0.0/8 fib daddr type local"))
	fmt.Fprintf(&b, " chain postrouting {\n  type nat hook postrouting priority srcnat;\n  ip saddr %s oifname != \"%s\" masquerade\n", topology.ContainerNet, bridge)
	// Hairpin: a container that reaches a sibling by a published port. Itself it
	// cannot reach so: that needs a port that reflects, or a proxy.
	fmt.Fprintf(&b, "  ip saddr %s oifname \"%s\" ct status dnat masquerade\n }\n}\n", topology.ContainerNet, bridge)
	return b.String()
}
