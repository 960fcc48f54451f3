package show

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/model"
)

type page struct {
	b     strings.Builder
	color bool
}

func (p *page) field(name, value string) {
	if value != "" {
		fmt.Fprintf(&p.b, "%-13s %s\n", name+":", value)
	}
}

func (p *page) section(title string) { fmt.Fprintf(&p.b, "\n%s\n", title) }

func (p *page) table(cols []Column, rows [][]string) {
	if len(rows) == 0 {
		p.b.WriteString("  none\n")
		return
	}
	t := Table{Columns: cols, Color: p.color}
	for _, r := range rows {
		t.Row(r...)
	}
	var b strings.Builder
	t.Flush(&b) //nolint:errcheck // a Builder does not fail
	for line := range strings.Lines(b.String()) {
		p.b.WriteString("  " + line)
	}
}

func (p *page) state(s string) string {
	if p.color {
		return paint(s)
	}
	return s
}

// Describe prints all there is to know of a resource.
func Describe(w io.Writer, r model.Resource, color bool, now time.Time) error {
	p := &page{color: color}
	m := r.Meta()
	p.field("Name", m.Name)
	p.field("Kind", string(r.GetKind()))
	p.field("Labels", Labels(m.Labels))
	for _, k := range slices.Sorted(maps.Keys(m.Annotations)) {
		p.field("Annotation", k+": "+m.Annotations[k])
	}
	if m.CreationTimestamp != nil {
		p.field("Created", fmt.Sprintf("%s (%s ago)", m.CreationTimestamp.Format(time.RFC3339), Age(now.Sub(*m.CreationTimestamp))))
	}
	if m.Generation > 0 {
		p.field("Generation", fmt.Sprint(m.Generation))
	}
	switch r := r.(type) {
	case *model.Tap:
		p.tap(r, now)
	case *model.Policy:
		p.policy(r)
	case *model.Host:
		p.host(r, now)
	case *model.Workload:
		p.workload(r)
	case *model.AlertRule:
		_, clear, _ := r.Spec.Threshold()
		p.field("When", r.Spec.Condition())
		p.field("Over at", strconv.FormatFloat(clear, 'f', -1, 64))
		p.field("Severity", p.state(string(orDefault(r.Spec.Severity, model.SeverityWarning))))
		if r.Spec.Hosts != nil {
			p.field("Hosts", r.Spec.Hosts.String())
		} else {
			p.field("Hosts", "all")
		}
		p.field("Firing", strings.Join(r.Status.Firing, ", "))
	case *model.Probe:
		p.probe(r, now)
	case *model.Alert:
		p.field("Host", r.Spec.Host)
		p.field("Severity", p.state(string(r.Spec.Severity)))
		p.field("Type", r.Spec.Type)
		p.field("Since", ago(&r.Spec.Since, now))
		p.field("Host seen", ago(r.Spec.LastSeen, now))
		p.field("Message", r.Spec.Message)
	case *model.Group:
		p.field("Selector", ends(model.Endpoints{Selector: r.Spec.Selector}))
		p.field("Groups", strings.Join(r.Spec.Groups, ", "))
		p.field("Mode", string(r.Spec.Mode))
		p.field("Members", fmt.Sprintf("%s on %s", Plural(r.Status.Members, "workload"), Plural(r.Status.Hosts, "host")))
	case *model.Relay:
		p.field("State", p.state(string(r.Status.State)))
		p.field("Addresses", strings.Join(r.Spec.Addresses, ", "))
		p.field("Seen", ago(r.Status.LastSeen, now))
		p.field("Version", r.Status.Version)
		p.field("Forwards", fmt.Sprintf("%s, %s, %s so far", Plural(r.Status.Sessions, "session"), Plural(r.Status.Streams, "stream"), Bytes(r.Status.Bytes)))
	case *model.FlowQuery:
		p.field("By", strings.Join(r.Spec.By, ", "))
		p.field("Where", r.Spec.Where)
		p.field("Selector", r.Spec.Selector)
		p.field("Since", orDefault(r.Spec.Since, "1h"))
		p.field("Order", orDefault(r.Spec.Order, "bytes"))
		p.field("Top", fmt.Sprint(orDefault(r.Spec.Top, 20)))
		p.field("Ask it with", "weft flows --query "+m.Name)
	case *model.JoinToken:
		p.field("Role", string(orDefault(r.Spec.Role, model.RoleHost)))
		p.field("Used", fmt.Sprintf("%d of %d times", r.Status.Used, max(r.Spec.Uses, 1)))
		p.field("Expires", until(r.Status.Expires, now))
		p.field("Gives labels", Labels(r.Spec.Labels))
		p.field("May claim", r.Spec.Claims.String())
	case *model.AccessToken:
		p.field("Role", string(orDefault(r.Spec.Role, model.AccessViewer)))
		p.field("Expires", untilOr(r.Status.Expires, now, "never"))
	}
	_, err := io.WriteString(w, p.b.String())
	return err
}

func (p *page) tap(t *model.Tap, now time.Time) {
	p.field("State", strings.TrimSpace(p.state(string(t.Status.State))+"  "+t.Status.Message))
	p.field("From", ends(t.Spec.From))
	if r := t.Spec.Ring; r != nil {
		p.field("To", "a ring on each host, of "+ringLimits(r)+" at most")
	} else {
		p.field("To", ends(t.Spec.To))
	}
	p.field("Filter", orDefault(t.Spec.Filter, "none: every packet"))
	snaplen := "whole frames"
	if t.Spec.Snaplen > 0 {
		snaplen = fmt.Sprintf("%d bytes of each frame", t.Spec.Snaplen)
	}
	p.field("Snaplen", snaplen)
	p.field("Direction", string(orDefault(t.Spec.Direction, model.DirectionBoth)))
	if t.Spec.Ring == nil {
		p.field("Device", orDefault(t.Spec.Deliver.Device, model.DefaultDevice))
	}
	state := Column{Title: "STATE", State: true}
	var rows [][]string
	for _, s := range t.Status.Sources {
		rows = append(rows, []string{s.Workload, s.Host, s.State, s.Message})
	}
	p.section("Sources")
	p.table([]Column{{Title: "WORKLOAD"}, {Title: "HOST"}, state, {Title: "MESSAGE"}}, rows)
	rows = nil
	for _, s := range t.Status.Tools {
		rows = append(rows, []string{s.Host, s.Device, s.State, s.Message})
	}
	if t.Spec.Ring == nil {
		p.section("Tools")
		p.table([]Column{{Title: "HOST"}, {Title: "DEVICE"}, state, {Title: "MESSAGE"}}, rows)
	} else {
		var hosts []string
		var rings []model.RingStatus
		for _, s := range t.Status.Paths {
			if s.Ring != nil {
				hosts, rings = append(hosts, s.Host), append(rings, *s.Ring)
			}
		}
		p.section("Rings")
		p.rings("HOST", hosts, rings, now)
	}
	rows = nil
	for _, s := range t.Status.Paths {
		via := s.Path
		if s.Relay != "" {
			via += " " + s.Relay
		}
		rows = append(rows, []string{s.Host, orDefault(s.Tool, "ring"), s.State, via, s.Remote, ago(s.Since, now), Number(s.Ledger.Delivered.Packets), s.Message})
	}
	p.section("Paths")
	p.table([]Column{{Title: "FROM"}, {Title: "TO"}, state, {Title: "PATH"}, {Title: "REMOTE"}, {Title: "SINCE"}, {Title: "DELIVERED"}, {Title: "MESSAGE"}}, rows)
	p.ledger(t)
}

// ledger prints the account and whether it balances: the tap's, and that of
// each path, so that a fault shows where it is.
func (p *page) ledger(t *model.Tap) {
	l := t.Status.Ledger
	p.section("Ledger")
	var rows [][]string
	row := func(name string, c model.Count) {
		rows = append(rows, []string{name, fmt.Sprint(c.Packets), fmt.Sprint(c.Bytes)})
	}
	row("seen", l.Seen)
	row("- filtered", l.Filtered)
	row("- sampled", l.Sampled)
	row("- deduplicated", l.Deduplicated)
	row("- shed", l.Shed)
	row("- ring dropped", l.RingDropped)
	row("- path dropped", l.PathDropped)
	row("- delivered", l.Delivered)
	row("- in flight", l.InFlight)
	p.table([]Column{{Title: "TERM"}, {Title: "PACKETS"}, {Title: "BYTES"}}, rows)
	check := "balances"
	if err := l.Check(); err != nil {
		check = err.Error()
	}
	for _, path := range t.Status.Paths {
		if err := path.Ledger.Check(); err != nil {
			check += fmt.Sprintf("; %s -> %s: %v", path.Host, orDefault(path.Tool, "ring"), err)
		}
	}
	fmt.Fprintf(&p.b, "  check: %s\n", check)
}

func (p *page) host(h *model.Host, now time.Time) {
	s := h.Status
	p.field("State", p.state(string(s.State)))
	p.field("Seen", ago(s.LastSeen, now))
	p.field("Agent", s.AgentVersion)
	p.field("System", strings.Join([]string{s.OS, s.Kernel, s.Arch}, ", "))
	if s.CPUs > 0 {
		p.field("Size", fmt.Sprintf("%s, %s of memory", Plural(s.CPUs, "CPU"), Bytes(uint64(s.MemoryBytes))))
	}
	p.field("Address", s.RemoteAddress)
	p.field("Certificate", until(s.CertificateExpires, now))
	p.field("Workloads", fmt.Sprint(s.Workloads))
	p.field("Spec labels", Labels(h.Spec.Labels))
	p.field("May claim", orDefault(s.Claims.String(), model.ClaimAny))
	var rows [][]string
	for _, i := range s.Interfaces {
		uplink := ""
		if i.Uplink {
			uplink = "yes"
		}
		rows = append(rows, []string{i.Name, i.MAC, fmt.Sprint(i.MTU), uplink, strings.Join(i.Addresses, ",")})
	}
	p.section("Interfaces")
	p.table([]Column{{Title: "NAME"}, {Title: "MAC"}, {Title: "MTU"}, {Title: "UPLINK"}, {Title: "ADDRESSES"}}, rows)
	pairs := func(title string, m map[string]string) {
		var rows [][]string
		for _, k := range slices.Sorted(maps.Keys(m)) {
			rows = append(rows, []string{k, m[k]})
		}
		p.section(title)
		p.table([]Column{{Title: "NAME"}, {Title: "VALUE"}}, rows)
	}
	pairs("Reported labels", s.Labels)
	if len(s.RefusedLabels) > 0 {
		rows = nil
		for _, l := range s.RefusedLabels {
			rows = append(rows, []string{l.Workload, l.Key, l.Value})
		}
		p.section("Refused labels: claimed by the agent, which may not")
		p.table([]Column{{Title: "WORKLOAD"}, {Title: "NAME"}, {Title: "VALUE"}}, rows)
	}
	pairs("Capabilities", s.Capabilities)
	if len(s.Rings) > 0 {
		var taps []string
		for _, r := range s.Rings {
			taps = append(taps, r.Tap)
		}
		p.section("Rings: packets that are kept for weft capture --since")
		p.rings("TAP", taps, s.Rings, now)
	}
	if len(s.Drops) > 0 {
		rows = nil
		for _, reason := range slices.SortedFunc(maps.Keys(s.Drops), func(a, b string) int {
			return cmp.Or(cmp.Compare(s.Drops[b], s.Drops[a]), cmp.Compare(a, b))
		}) {
			rows = append(rows, []string{reason, Number(s.Drops[reason])})
		}
		p.section("Drops: packets that the kernel has thrown away")
		p.table([]Column{{Title: "REASON"}, {Title: "PACKETS"}}, rows)
	}
	rows = nil
	for _, x := range s.Sections {
		current := "yes"
		if x.Applied != x.Desired {
			current = "no"
		}
		rows = append(rows, []string{x.Name, current, x.Error})
	}
	p.section("Sections")
	p.table([]Column{{Title: "NAME"}, {Title: "APPLIED"}, {Title: "ERROR"}}, rows)
	rows = nil
	for _, c := range s.Conditions {
		rows = append(rows, []string{c.Type, string(c.Severity), ago(&c.Since, now), c.Message})
	}
	p.section("Conditions")
	p.table([]Column{{Title: "TYPE"}, {Title: "SEVERITY", State: true}, {Title: "SINCE"}, {Title: "MESSAGE"}}, rows)
}

func (p *page) workload(w *model.Workload) {
	p.field("Workload", string(w.Spec.Kind))
	p.field("Host", w.Spec.Host)
	p.field("Addresses", strings.Join(w.Spec.Addresses, ", "))
	p.field("Interfaces", strings.Join(w.Spec.Interfaces, ", "))
	p.field("Cgroup", w.Spec.Cgroup)
	if c := w.Spec.Container; c != nil {
		p.field("Container", fmt.Sprintf("%s, image %s, %s, id %.12s", c.Name, c.Image, c.Runtime, c.ID))
	}
}
