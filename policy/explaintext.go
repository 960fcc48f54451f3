package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"weft/model"
)

// lacking names the labels a selector asks about as they are.
func lacking(s model.Selector, labels map[string]string) string {
	var out []string
	for _, r := range s.Requirements {
		if r.Matches(labels) {
			continue
		}
		if v, has := labels[r.Key]; has {
			out = append(out, r.Key+"="+v)
		} else {
			out = append(out, "no "+r.Key)
		}
	}
	return strings.Join(out, ",")
}

func labelText(labels map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, k+"="+labels[k])
	}
	if len(out) == 0 {
		return "no labels"
	}
	return strings.Join(out, ",")
}

// portText writes what rules' ports are compared with.
func (p *Packet) portText() string {
	port := Port{p.Protocol, p.Key(), p.Key()}
	if !model.HasPorts(p.Protocol) && !model.IsICMP(p.Protocol) {
		port.First, port.Last = 0, 65535
	}
	return port.String()
}

func portList(r *model.PolicyRule) string {
	var out []Port
	for i := range r.Ports {
		n, _ := r.Ports[i].ProtocolNumber()
		first, last := r.Ports[i].Range()
		out = append(out, Port{n, first, last})
	}
	return join(out)
}

func peerList(peers []model.PolicyPeer) string {
	var out []string
	for i := range peers {
		c, err := compilePeer(&peers[i])
		if err != nil {
			out = append(out, err.Error())
			continue
		}
		out = append(out, c.String())
	}
	return strings.Join(out, " or ")
}

// peerText names the other end: what a single selector finds lacking, else all of it.
func (w *World) peerText(peers []model.PolicyPeer, end *End) string {
	if labels := w.Identities.Labels(end.Identity); labels != nil {
		if len(peers) == 1 && peers[0].Selector != nil {
			return lacking(*peers[0].Selector, labels)
		}
		return labelText(labels)
	}
	return endText(end, nil)
}

func endText(e *End, labels map[string]string) string {
	text := e.Addr.Unmap().String()
	if labels != nil {
		text += " (" + labelText(labels) + ")"
	} else {
		text += " (no workload)"
	}
	if e.Entities != 0 {
		text += " [" + e.Entities.String() + "]"
	}
	if e.Process != (model.PolicyProcess{}) {
		text += " run by " + describeProcess(e.Process)
	}
	return text
}

// String writes the explanation for a person.
func (x Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s -> %s, %s\n", x.Action, endText(&x.Packet.Source, x.Egress.Labels), endText(&x.Packet.Destination, x.Ingress.Labels), x.Packet.portText())
	b.WriteString(x.Egress.text("the sender"))
	b.WriteString(x.Ingress.text("the receiver"))
	return b.String()
}

func (x EndExplanation) text(who string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s of %s: %s\n", x.Direction, who, x.Verdict)
	if len(x.Steps) == 0 && x.Verdict.Reason == ByDefault {
		b.WriteString("  no policy has rules for it\n")
	}
	for _, s := range x.Steps {
		rules := "rules"
		if s.Rules == 1 {
			rules = "rule"
		}
		fmt.Fprintf(&b, "  %-12s %s (%d %s)\n", s.Tier, s.Text, s.Rules, rules)
	}
	if len(x.Misses) > 0 {
		b.WriteString("  nearly allowed by\n")
	}
	for _, m := range x.Misses {
		fmt.Fprintf(&b, "    %s/%s, but for the %s: have %s, want %s\n", m.Policy, m.Rule, m.Dimension, m.Have, m.Want)
	}
	if x.MoreMisses > 0 {
		fmt.Fprintf(&b, "    and %d more\n", x.MoreMisses)
	}
	return b.String()
}
