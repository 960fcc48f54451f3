package reach

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"weft/internal/testreq"
	"weft/lab"
)

const workerVariable = "WEFT_REACH_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(workerVariable) != "" {
		if err := Work(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const behindAFirewall = `apiVersion: weft/v1
kind: Topology
metadata: {name: reach}
spec:
  switches:
  - {name: out, subnet: 10.70.0.0/24}
  - {name: in, subnet: 10.70.1.0/24}
  routers:
  - {name: wall, uplink: out, downlinks: in, firewall: {udp: blocked, icmp: blocked, onlyTCP: [80], inbound: blocked}}
  hosts:
  - {name: far, attach: out, containers: [{name: box, publish: ["8080:80"]}, {name: hidden}], units: [{name: svc}]}
  - {name: near, attach: in}
`

// What lets packets through is the kernel's own packet filter: no part of weft.
func TestRealTraffic(t *testing.T) {
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.Cgroup2, "nft")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	topo, err := lab.Parse("reach", []byte(behindAFirewall))
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Up(ctx, topo, lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
		if left := lab.Leftovers(l.ID); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}()
	rules := l.Host("far").Command(ctx, "nft", "-f", "-")
	rules.Stdin = strings.NewReader("table ip aloud { chain in { type filter hook input priority 0; tcp dport 81 reject with tcp reset; udp dport 81 reject; }; }")
	if out, err := rules.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	// A program of the user's own, which does not echo.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	own := l.Host("far").Command(ctx, "nc", "-l", "-k", "82")
	testreq.Need(t, "nc")
	if err := own.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		own.Process.Kill()
		own.Wait()
	}()
	table, err := Parse("table", []byte(`
near      far          tcp/80              allow   # 1
near      far          tcp/443,udp/53,icmp deny
far       near         tcp/80,udp/53,icmp  deny
far:box   far          tcp/80,udp/53,icmp  allow
far       far:box      tcp/80,udp/53,icmp  allow
far:svc   far:hidden   tcp/80              allow
far:box   far          tcp/81,udp/81       reject
far:box   far,far:svc  tcp/82              allow
far:box   far:svc      tcp/80              allow
near      far:box      tcp/80              allow   # wrong: the way is published port 8080
near      far:hidden   tcp/80              deny    # no way
near      far:hidden   tcp/81              allow   # wrong: no way
`))
	if err != nil {
		t.Fatal(err)
	}
	probes, err := table.Probes(l.Places())
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Worker: []string{self}, Env: []string{workerVariable + "=1"}, Timeout: 300 * time.Millisecond}
	if err := Run(ctx, cfg, probes); err != nil {
		t.Fatal(err)
	}
	wrong := map[string]bool{"near far:box tcp/80": true, "near far:hidden tcp/81": true}
	for _, p := range probes {
		if p.Holds() == wrong[strings.Join([]string{p.From, p.To, p.Service}, " ")] {
			t.Errorf("%s -> %s %s at %q: %s, expected %s (%s)", p.From, p.To, p.Service, p.Target, p.Actual, p.Expected, p.Detail)
		}
	}
}
