package model

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Validate checks a policy's spec.
func (r *Policy) Validate() error {
	var e FieldErrors
	r.Metadata.check(&e)
	s := &r.Spec
	if s.Tier != "" && !slices.Contains(Tiers, s.Tier) {
		e.add("spec.tier", oneOf(s.Tier, Tiers))
	}
	if p := s.Priority; p != nil && (*p < 0 || *p > MaxPriority) {
		e.add("spec.priority", fmt.Errorf("%d is outside 0 to %d; lower comes first", *p, MaxPriority))
	}
	if stages := []Stage{StageDraft, StageStaged, StageActive}; s.Stage != "" && !slices.Contains(stages, s.Stage) {
		e.add("spec.stage", oneOf(s.Stage, stages))
	}
	checkPromotion(&e, s)
	if s.Subject.Selector == nil {
		e.add("spec.subject.selector", fmt.Errorf(`is missing; write "*" to take every workload`))
	}
	checkProcesses(&e, "spec.subject.processes", s.Subject.Processes)
	if s.Ingress == nil && s.Egress == nil {
		e.add("spec", fmt.Errorf("give ingress or egress; an empty list allows nothing where the subject is Selective"))
	}
	if n := len(s.Ingress) + len(s.Egress); n > MaxPolicyRules {
		e.add("spec", fmt.Errorf("has %d rules; %d at most, put the rest into another policy", n, MaxPolicyRules))
		return e.OrNil()
	}
	checkRules(&e, "spec.ingress", s.Ingress, false)
	checkRules(&e, "spec.egress", s.Egress, true)
	return e.OrNil()
}

func oneOf[T ~string](v T, all []T) error {
	names := make([]string, len(all))
	for i, a := range all {
		names[i] = string(a)
	}
	return fmt.Errorf("%q is none of %s%s", v, strings.Join(names, ", "), suggest(string(v), names))
}

var actions = []Action{ActionAllow, ActionDeny, ActionReject, ActionPass, ActionLog}

// Bounds of promoteAfter.
const (
	minPromote = time.Minute
	maxPromote = 365 * 24 * time.Hour
)

func checkPromotion(e *FieldErrors, s *PolicySpec) {
	if s.PromoteAfter == "" {
		return
	}
	d, err := time.ParseDuration(s.PromoteAfter)
	switch {
	case err != nil || d < minPromote || d > maxPromote:
		e.add("spec.promoteAfter", fmt.Errorf("%q is no time from 1m to 8760h; write it like 24h or 30m", s.PromoteAfter))
	case s.StageOrDefault() == StageDraft:
		e.add("spec.promoteAfter", fmt.Errorf("has no effect on a Draft, which no host knows; use stage: Staged"))
	}
}

func checkRules(e *FieldErrors, field string, rules []PolicyRule, egress bool) {
	seen := map[string]int{}
	for i := range rules {
		r, at := &rules[i], fmt.Sprintf("%s[%d]", field, i)
		if r.Name != "" {
			if err := CheckName(r.Name); err != nil {
				e.add(at+".name", err)
			} else if first, dup := seen[r.Name]; dup {
				e.add(at+".name", fmt.Errorf("%q is the name of %s[%d] too; give each rule its own", r.Name, field, first))
			} else {
				seen[r.Name] = i
			}
		}
		switch {
		case r.Action == "":
			e.add(at+".action", fmt.Errorf("is missing; write Allow, Deny, Reject, Pass or Log"))
		case !slices.Contains(actions, r.Action):
			e.add(at+".action", oneOf(r.Action, actions))
		}
		peers, side, other, otherSide := r.From, "from", r.To, "to"
		if egress {
			peers, side, other, otherSide = r.To, "to", r.From, "from"
		}
		if other != nil {
			e.add(at+"."+otherSide, fmt.Errorf("has no place in %s, whose other end is %q; the subject is this end", field[len("spec."):], side))
		}
		checkPeers(e, at+"."+side, peers, r.Action, egress)
		checkPorts(e, at+".ports", r.Ports)
	}
}

func checkPeers(e *FieldErrors, field string, peers []PolicyPeer, action Action, egress bool) {
	if peers != nil && len(peers) == 0 {
		e.add(field, fmt.Errorf("is an empty list; leave it out to match every peer"))
	}
	if len(peers) > MaxRulePeers {
		e.add(field, fmt.Errorf("has %d peers; %d at most", len(peers), MaxRulePeers))
		return
	}
	for i := range peers {
		p, at := &peers[i], fmt.Sprintf("%s[%d]", field, i)
		var given []string
		for _, g := range []struct {
			name string
			is   bool
		}{{"selector", p.Selector != nil}, {"entities", len(p.Entities) > 0}, {"ipBlocks", len(p.IPBlocks) > 0}, {"domainNames", len(p.DomainNames) > 0}} {
			if g.is {
				given = append(given, g.name)
			}
		}
		switch {
		case len(given) == 0:
			e.add(at, fmt.Errorf("give a selector, entities, ipBlocks or domainNames; entities: [any] is every peer"))
		case len(given) > 1:
			e.add(at, fmt.Errorf("has %s; give one of them here and the other as a peer of its own", strings.Join(given, " and ")))
		}
		if tooMany(e, at+".entities", len(p.Entities)) || tooMany(e, at+".ipBlocks", len(p.IPBlocks)) || tooMany(e, at+".domainNames", len(p.DomainNames)) {
			continue
		}
		for j, v := range p.Entities {
			if !slices.Contains(Entities, v) {
				e.add(fmt.Sprintf("%s.entities[%d]", at, j), oneOf(v, Entities))
			}
		}
		checkBlocks(e, at+".ipBlocks", p.IPBlocks)
		checkDomains(e, at+".domainNames", p.DomainNames, action, egress)
		if len(p.Processes) > 0 && len(p.IPBlocks)+len(p.DomainNames) > 0 {
			e.add(at+".processes", fmt.Errorf("are known of workloads only; use them with a selector or entities"))
		}
		checkProcesses(e, at+".processes", p.Processes)
	}
}

func tooMany(e *FieldErrors, field string, n int) bool {
	if n > MaxPeerItems {
		e.add(field, fmt.Errorf("has %d items; %d at most", n, MaxPeerItems))
	}
	return n > MaxPeerItems
}

var domainRE = regexp.MustCompile(`^(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

func checkDomains(e *FieldErrors, field string, names []string, action Action, egress bool) {
	if len(names) == 0 {
		return
	}
	if action != ActionAllow && action != "" {
		e.add(field, fmt.Errorf("work with Allow only, not %s: a name leads to the addresses looked up so far, and whoever knows another address would get through; use ipBlocks", action))
	}
	if !egress {
		e.add(field, fmt.Errorf("work in egress only: they are the names the subject looks up; use ipBlocks or a selector"))
	}
	for i, n := range names {
		if len(n) > 253 || !domainRE.MatchString(n) {
			e.add(fmt.Sprintf("%s[%d]", field, i), fmt.Errorf(`%q is no domain name; write it like "example.org" or "*.example.org", in lower case and without a dot at the end`, n))
		}
	}
}

func checkProcesses(e *FieldErrors, field string, list []PolicyProcess) {
	if tooMany(e, field, len(list)) {
		return
	}
	for i, p := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		if p == (PolicyProcess{}) {
			e.add(at, fmt.Errorf("give exe, user or cgroup"))
		}
		if p.Exe != "" && (!path.IsAbs(p.Exe) || path.Clean(p.Exe) != p.Exe || len(p.Exe) > 4096) {
			e.add(at+".exe", fmt.Errorf("%q is no absolute path of an executable; write it like /usr/sbin/nginx", p.Exe))
		}
		if p.User != "" && !userRE.MatchString(p.User) {
			e.add(at+".user", fmt.Errorf("%q is no user name", p.User))
		}
		if p.Cgroup != "" && (!path.IsAbs(p.Cgroup) || path.Clean(p.Cgroup) != p.Cgroup || len(p.Cgroup) > 4096) {
			e.add(at+".cgroup", fmt.Errorf("%q is no absolute path of a cgroup; write it like /system.slice/nginx.service", p.Cgroup))
		}
	}
}

var userRE = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.@-]{0,254}\$?$`)
