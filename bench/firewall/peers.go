package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"weft/lab/netns"
)

// peer is a firewall that a program loads.
type peer struct {
	site *site
	// written returns what to run for all rules, and one for one rule more.
	written func([]rule) []command
	one     func(rule) []command
}

// command is a program to run in the receiver and what it reads.
type command struct {
	argv  []string
	stdin string
}

func (p *peer) replace(rules []rule) (func() error, error) {
	commands := p.written(rules)
	return func() error { return p.site.run(commands) }, nil
}

func (p *peer) add(r rule) func() error {
	commands := p.one(r)
	return func() error { return p.site.run(commands) }
}

func (p *peer) forget() error { return p.site.forget() }
func (p *peer) close() error  { return nil }

// run runs commands in the receiver's namespace, one after the other.
func (s *site) run(commands []command) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return netns.Do(s.receiver, func() error {
		for _, c := range commands {
			cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
			cmd.Stdin = strings.NewReader(c.stdin)
			cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+filepath.Join(s.dir, "xtables.lock"))
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("run %q: %w: %.300s", c.argv, err, out)
			}
		}
		return nil
	})
}

// raiseTables has one rule after another in INPUT.
func raiseTables(restore string) func(*site) (firewall, error) {
	add := func(b *strings.Builder, r rule) {
		fmt.Fprintf(b, "-A INPUT -s %s -p %s --dport %d -j ACCEPT\n", r.source, r.protocolName(), r.port)
	}
	return func(s *site) (firewall, error) {
		return &peer{site: s,
			written: func(rules []rule) []command {
				var b strings.Builder
				b.WriteString("*filter\n:INPUT DROP\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n")
				for _, r := range rules {
					add(&b, r)
				}
				b.WriteString("COMMIT\n")
				return []command{{[]string{restore}, b.String()}}
			},
			one: func(r rule) []command {
				var b strings.Builder
				b.WriteString("*filter\n")
				add(&b, r)
				b.WriteString("COMMIT\n")
				return []command{{[]string{restore, "--noflush"}, b.String()}}
			}}, nil
	}
}

// raiseSet has one rule in INPUT that asks a set of addresses with ports.
func raiseSet(s *site) (firewall, error) {
	size := func(n int) int { return max(1<<16, 2*n) }
	err := s.run([]command{
		{[]string{"ipset", "create", "rules", "hash:ip,port", "maxelem", fmt.Sprint(size(0))}, ""},
		{[]string{"iptables-legacy-restore"}, "*filter\n:INPUT DROP\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n" +
			"-A INPUT -m set --match-set rules src,dst -j ACCEPT\nCOMMIT\n"},
	})
	return &peer{site: s,
		written: func(rules []rule) []command {
			var b strings.Builder
			fmt.Fprintf(&b, "create next hash:ip,port maxelem %d\n", size(len(rules)))
			for _, r := range rules {
				fmt.Fprintf(&b, "add next %s,%s:%d\n", r.source, r.protocolName(), r.port)
			}
			b.WriteString("swap next rules\ndestroy next\n")
			return []command{{[]string{"ipset", "restore"}, b.String()}}
		},
		one: func(r rule) []command {
			return []command{{[]string{"ipset", "add", "rules", fmt.Sprintf("%s,%s:%d", r.source, r.protocolName(), r.port)}, ""}}
		}}, err
}

// raiseMap has one rule that looks up address, protocol and port in a map.
func raiseMap(s *site) (firewall, error) {
	err := s.run([]command{{[]string{"nft", "-f", "-"}, `table ip bench {
	map rules { type ipv4_addr . inet_proto . inet_service : verdict; }
	chain input {
		type filter hook input priority 0; policy drop;
		ct state established,related accept
		ip saddr . meta l4proto . th dport vmap @rules
	}
}
`}})
	element := func(b *strings.Builder, r rule) {
		fmt.Fprintf(b, "%s . %s . %d : accept", r.source, r.protocolName(), r.port)
	}
	return &peer{site: s,
		written: func(rules []rule) []command {
			var b strings.Builder
			b.WriteString("flush map ip bench rules\nadd element ip bench rules {\n")
			for _, r := range rules {
				element(&b, r)
				b.WriteString(",\n")
			}
			b.WriteString("}\n")
			return []command{{[]string{"nft", "-f", "-"}, b.String()}}
		},
		one: func(r rule) []command {
			var b strings.Builder
			b.WriteString("{ ")
			element(&b, r)
			b.WriteString(" }")
			return []command{{[]string{"nft", "add", "element", "ip", "bench", "rules", b.String()}, ""}}
		}}, err
}
