package show

import (
	"fmt"
	"strings"

	"weft/model"
)

func (p *page) policy(r *model.Policy) {
	s := r.Status
	p.field("State", strings.TrimSpace(p.state(string(s.State))+"  "+s.Message))
	p.field("Stage", string(r.Spec.StageOrDefault()))
	p.field("Tier", fmt.Sprintf("%s, priority %d", r.Spec.TierOrDefault(), r.Spec.PriorityOrDefault()))
	if r.Spec.Subject.Selector != nil {
		p.field("Subject", r.Spec.Subject.Selector.String()+Processes(r.Spec.Subject.Processes))
	}
	if !r.Spec.IsStateful() {
		p.field("Stateful", "no: answers need rules of their own")
	}
	p.field("Workloads", fmt.Sprintf("%s on %s", Plural(s.Workloads, "workload"), Plural(s.Targeted, "host")))
	p.field("Applied", fmt.Sprintf("by %d, failed on %d", s.Applied, s.Failed))
	p.rules("Ingress", r.Spec.Ingress, func(r *model.PolicyRule) []model.PolicyPeer { return r.From })
	p.rules("Egress", r.Spec.Egress, func(r *model.PolicyRule) []model.PolicyPeer { return r.To })
	var rows [][]string
	for _, c := range s.Rules {
		rows = append(rows, []string{c.Name, c.Direction, c.ID, fmt.Sprint(c.Connections), fmt.Sprint(c.Packets), fmt.Sprint(c.Bytes)})
	}
	p.section("Counters")
	p.table(CounterColumns(), rows)
	if len(s.Hosts) > 0 {
		rows = nil
		for _, h := range s.Hosts {
			rows = append(rows, []string{h.Host, h.State, h.Message})
		}
		p.section("Not applied")
		p.table([]Column{{Title: "HOST"}, {Title: "STATE", State: true}, {Title: "MESSAGE"}}, rows)
	}
}

func (p *page) rules(title string, rules []model.PolicyRule, peers func(*model.PolicyRule) []model.PolicyPeer) {
	p.section(title)
	var rows [][]string
	for i := range rules {
		name := rules[i].Name
		if name == "" {
			name = fmt.Sprintf("#%d", i)
		}
		rows = append(rows, []string{name, string(rules[i].Action), Peers(peers(&rules[i])), Ports(rules[i].Ports)})
	}
	p.table([]Column{{Title: "RULE"}, {Title: "ACTION"}, {Title: "PEER"}, {Title: "PORTS"}}, rows)
}

// CounterColumns are those of a policy's live counters.
func CounterColumns() []Column {
	return []Column{{Title: "RULE", Flexible: true}, {Title: "DIRECTION"}, {Title: "ID"}, {Title: "CONNECTIONS"}, {Title: "PACKETS"}, {Title: "BYTES"}}
}

// CounterCells are the cells under CounterColumns.
func CounterCells(r model.PolicyRuleStatus) []string {
	return []string{r.Name, r.Direction, r.ID, Number(r.Connections), Number(r.Packets), Bytes(r.Bytes)}
}

// Peers prints the peers of a rule.
func Peers(list []model.PolicyPeer) string {
	var out []string
	for _, p := range list {
		text := strings.Join(p.DomainNames, ",")
		if p.Selector != nil {
			text = p.Selector.String()
		}
		for _, e := range p.Entities {
			text = strings.TrimPrefix(text+","+string(e), ",")
		}
		for _, b := range p.IPBlocks {
			block := b.CIDR
			if len(b.Except) > 0 {
				block += " except " + strings.Join(b.Except, " ")
			}
			text = strings.TrimPrefix(text+","+block, ",")
		}
		out = append(out, text+Processes(p.Processes))
	}
	if len(out) == 0 {
		return "every peer"
	}
	return strings.Join(out, " or ")
}

// Ports prints the ports of a rule.
func Ports(list []model.PolicyPort) string {
	var out []string
	for _, p := range list {
		text := p.Protocol
		switch {
		case p.Port != nil && p.EndPort != nil:
			text += fmt.Sprintf("/%d-%d", *p.Port, *p.EndPort)
		case p.Port != nil:
			text += fmt.Sprintf("/%d", *p.Port)
		case p.ICMP != nil && p.ICMP.Type != nil && p.ICMP.Code != nil:
			text += fmt.Sprintf("/%d.%d", *p.ICMP.Type, *p.ICMP.Code)
		case p.ICMP != nil && p.ICMP.Type != nil:
			text += fmt.Sprintf("/%d", *p.ICMP.Type)
		}
		out = append(out, text)
	}
	if len(out) == 0 {
		return "every port"
	}
	return strings.Join(out, ",")
}

// Processes prints conditions on processes, after what they narrow.
func Processes(list []model.PolicyProcess) string {
	var out []string
	for _, p := range list {
		var parts []string
		for _, f := range [][2]string{{"", p.Exe}, {"user ", p.User}, {"cgroup ", p.Cgroup}} {
			if f[1] != "" {
				parts = append(parts, f[0]+f[1])
			}
		}
		out = append(out, strings.Join(parts, " "))
	}
	if len(out) == 0 {
		return ""
	}
	return " run by " + strings.Join(out, " or ")
}
