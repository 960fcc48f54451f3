package show

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"weft/model"
)

// Columns returns the columns of a kind; wide adds those that need room.
func Columns(kind model.Kind, wide bool) []Column {
	name, age, state := Column{Title: "NAME"}, Column{Title: "AGE"}, Column{Title: "STATE", State: true}
	flex := func(title string) Column { return Column{Title: title, Flexible: true} }
	col := func(titles ...string) []Column {
		out := make([]Column, len(titles))
		for i, t := range titles {
			out[i] = Column{Title: t}
		}
		return out
	}
	var narrow, more []Column
	switch kind {
	case model.KindHost:
		narrow = append([]Column{name, state, flex("ALERTS"), {Title: "WORKLOADS"}, {Title: "AGENT", Flexible: true}, flex("OS")}, age)
		more = append(col("KERNEL", "ARCH", "ADDRESS", "SEEN", "CERTIFICATE"), flex("LABELS"))
	case model.KindAlert:
		narrow = []Column{name, {Title: "SEVERITY", State: true}, {Title: "SINCE"}, flex("MESSAGE")}
		more = col("SEEN")
	case model.KindAlertRule:
		narrow = append([]Column{name, {Title: "SEVERITY", State: true}, flex("WHEN"), flex("FIRING")}, age)
		more = []Column{flex("HOSTS")}
	case model.KindProbe:
		narrow = append([]Column{name, {Title: "KIND"}, flex("TARGET")}, append(col("HOSTS", "FAILED", "P50", "P99"), age)...)
		more = append(col("EVERY", "COUNT"), flex("FROM"))
	case model.KindWorkload:
		narrow = append([]Column{name, {Title: "KIND"}, {Title: "HOST"}, flex("ADDRESSES")}, age)
		more = []Column{flex("INTERFACES"), flex("IMAGE"), flex("LABELS")}
	case model.KindGroup:
		narrow = append(col("NAME", "MEMBERS", "HOSTS"), flex("SELECTOR"), flex("GROUPS"), age)
		more = col("MODE")
	case model.KindPolicy:
		narrow = append([]Column{name, state}, append(append(col("TIER", "PRIORITY"), flex("SUBJECT")), append(col("WORKLOADS", "APPLIED"), age)...)...)
		more = append(col("STAGE", "TARGETED", "FAILED", "INGRESS", "EGRESS", "CONNECTIONS"), flex("MESSAGE"))
	case model.KindTap:
		narrow = append([]Column{name, state}, append(append(col("SOURCES", "TOOLS"), flex("PATH")), append(col("SEEN", "DELIVERED", "LOST"), age)...)...)
		more = append(col("FILTERED", "SAMPLED", "DEDUPLICATED", "SHED", "RING-DROPPED", "PATH-DROPPED", "IN-FLIGHT"), flex("FROM"), flex("TO"), flex("FILTER"))
	case model.KindRelay:
		narrow = append([]Column{name, state, flex("ADDRESSES")}, append(col("SESSIONS", "STREAMS", "BYTES"), age)...)
		more = col("VERSION", "SEEN")
	case model.KindFlowQuery:
		narrow = append([]Column{name, flex("BY"), flex("WHERE")}, append(col("SINCE", "ORDER", "TOP"), age)...)
	case model.KindJoinToken:
		narrow = append(col("NAME", "ROLE", "USED", "EXPIRES"), flex("LABELS"), age)
	case model.KindAccessToken:
		narrow = append(col("NAME", "ROLE", "EXPIRES"), age)
	}
	if wide {
		return append(narrow, more...)
	}
	return narrow
}

// Cells returns the cells under Columns.
func Cells(r model.Resource, wide bool, now time.Time) []string {
	age := "-"
	if at := r.Meta().CreationTimestamp; at != nil {
		age = Age(now.Sub(*at))
	}
	name := r.Meta().Name
	var narrow, more []string
	switch r := r.(type) {
	case *model.Host:
		s := r.Status
		narrow = []string{name, string(s.State), alerts(s.Conditions, now), fmt.Sprint(s.Workloads), s.AgentVersion, s.OS, age}
		more = []string{s.Kernel, s.Arch, s.RemoteAddress, ago(s.LastSeen, now), until(s.CertificateExpires, now), Labels(merge(s.Labels, r.Metadata.Labels, r.Spec.Labels))}
	case *model.Alert:
		narrow = []string{name, string(r.Spec.Severity), ago(&r.Spec.Since, now), r.Spec.Message}
		more = []string{ago(r.Spec.LastSeen, now)}
	case *model.AlertRule:
		hosts := "all"
		if r.Spec.Hosts != nil {
			hosts = r.Spec.Hosts.String()
		}
		narrow = []string{name, string(orDefault(r.Spec.Severity, model.SeverityWarning)), r.Spec.Condition(), strings.Join(r.Status.Firing, ","), age}
		more = []string{hosts}
	case *model.Probe:
		hosts, failed, p50, p99 := probed(r)
		narrow = []string{name, string(r.Spec.Kind), r.Spec.Target, hosts, failed, p50, p99, age}
		more = []string{r.Spec.Every().String(), fmt.Sprint(r.Spec.Questions()), r.Spec.From.String()}
	case *model.Workload:
		image := ""
		if c := r.Spec.Container; c != nil {
			image = c.Image
		}
		narrow = []string{name, string(r.Spec.Kind), r.Spec.Host, strings.Join(r.Spec.Addresses, ","), age}
		more = []string{strings.Join(r.Spec.Interfaces, ","), image, Labels(r.Metadata.Labels)}
	case *model.Group:
		sel := ""
		if r.Spec.Selector != nil {
			sel = r.Spec.Selector.String()
		}
		narrow = []string{name, fmt.Sprint(r.Status.Members), fmt.Sprint(r.Status.Hosts), sel, strings.Join(r.Spec.Groups, ","), age}
		more = []string{string(orDefault(r.Spec.Mode, model.ModeObserve))}
	case *model.Policy:
		s := r.Status
		var hits uint64
		for _, rule := range s.Rules {
			hits += rule.Connections
		}
		subject := ""
		if r.Spec.Subject.Selector != nil {
			subject = r.Spec.Subject.Selector.String()
		}
		narrow = []string{name, string(s.State), string(r.Spec.TierOrDefault()), fmt.Sprint(r.Spec.PriorityOrDefault()), subject, fmt.Sprint(s.Workloads), fmt.Sprintf("%d/%d", s.Applied, s.Targeted), age}
		more = []string{string(r.Spec.StageOrDefault()), fmt.Sprint(s.Targeted), fmt.Sprint(s.Failed), fmt.Sprint(len(r.Spec.Ingress)), fmt.Sprint(len(r.Spec.Egress)), Number(hits), s.Message}
	case *model.Tap:
		l := r.Status.Ledger
		n := func(c model.Count) string { return Number(c.Packets) }
		lost := l.Shed.Add(l.RingDropped).Add(l.PathDropped)
		tools, to := fmt.Sprint(len(r.Status.Tools)), ends(r.Spec.To)
		if r.Spec.Ring != nil {
			tools, to = "ring", "ring "+ringLimits(r.Spec.Ring)
		}
		narrow = []string{name, string(r.Status.State), fmt.Sprint(len(r.Status.Sources)), tools, paths(r, now), n(l.Seen), n(l.Delivered), n(lost), age}
		more = []string{n(l.Filtered), n(l.Sampled), n(l.Deduplicated), n(l.Shed), n(l.RingDropped), n(l.PathDropped), n(l.InFlight), ends(r.Spec.From), to, r.Spec.Filter}
	case *model.Relay:
		s := r.Status
		narrow = []string{name, string(s.State), strings.Join(r.Spec.Addresses, ","), fmt.Sprint(s.Sessions), fmt.Sprint(s.Streams), Bytes(s.Bytes), age}
		more = []string{s.Version, ago(s.LastSeen, now)}
	case *model.FlowQuery:
		s := r.Spec
		narrow = []string{name, strings.Join(s.By, ","), strings.Trim(s.Where+","+s.Selector, ","), orDefault(s.Since, "1h"), orDefault(s.Order, "bytes"), fmt.Sprint(orDefault(s.Top, 20)), age}
	case *model.JoinToken:
		narrow = []string{name, string(orDefault(r.Spec.Role, model.RoleHost)), fmt.Sprintf("%d/%d", r.Status.Used, max(r.Spec.Uses, 1)), until(r.Status.Expires, now), Labels(r.Spec.Labels), age}
	case *model.AccessToken:
		narrow = []string{name, string(orDefault(r.Spec.Role, model.AccessViewer)), untilOr(r.Status.Expires, now, "never"), age}
	}
	if wide {
		return append(narrow, more...)
	}
	return narrow
}

// alerts names what is wrong with a host and for how long it has been, but for
// what is harmless.
func alerts(conditions []model.Condition, now time.Time) string {
	var out []string
	for _, c := range conditions {
		if c.Severity != model.SeverityInfo {
			out = append(out, c.Type+" "+Age(now.Sub(c.Since)))
		}
	}
	return strings.Join(out, ",")
}

func orDefault[T comparable](v, otherwise T) T { return cmp.Or(v, otherwise) }

func ends(e model.Endpoints) string {
	if e.Group != "" {
		return "group " + e.Group
	}
	if e.Selector == nil {
		return ""
	}
	return e.Selector.String()
}

// paths sums up how a tap's streams travel: direct, relay, or both counted; or how
// far back rings reach, that which does least.
func paths(t *model.Tap, now time.Time) string {
	if t.Spec.Ring != nil {
		var last *time.Time
		for _, p := range t.Status.Paths {
			if p.Ring != nil && p.Ring.Oldest != nil && (last == nil || p.Ring.Oldest.After(*last)) {
				last = p.Ring.Oldest
			}
		}
		if last == nil {
			return "empty"
		}
		return Age(now.Sub(*last)) + " back"
	}
	counts := map[string]int{}
	for _, p := range t.Status.Paths {
		if p.Path != "" {
			counts[p.Path]++
		}
	}
	kinds := slices.Sorted(maps.Keys(counts))
	if len(kinds) == 1 {
		return kinds[0]
	}
	parts := make([]string, len(kinds))
	for i, k := range kinds {
		parts[i] = fmt.Sprintf("%s:%d", k, counts[k])
	}
	return strings.Join(parts, ",")
}

func ago(at *time.Time, now time.Time) string {
	if at == nil {
		return ""
	}
	return Age(now.Sub(*at)) + " ago"
}

func until(at *time.Time, now time.Time) string { return untilOr(at, now, "") }

func untilOr(at *time.Time, now time.Time, otherwise string) string {
	switch {
	case at == nil:
		return otherwise
	case !now.Before(*at):
		return "expired"
	}
	return "in " + Age(at.Sub(now))
}

// Labels prints labels sorted, as a selector would name them.
func Labels(labels map[string]string) string {
	parts := make([]string, 0, len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, k+"="+labels[k])
	}
	return strings.Join(parts, ",")
}

func merge(all ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range all {
		maps.Copy(out, m)
	}
	return out
}
