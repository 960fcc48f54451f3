package model

import (
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"time"
)

func (r *Metadata) check(e *FieldErrors) {
	if err := CheckName(r.Name); err != nil {
		e.add("metadata.name", err)
	}
	checkLabels(e, "metadata.labels", r.Labels)
}

func (e *FieldErrors) add(field string, err error) {
	*e = append(*e, FieldError{Field: field, Message: err.Error()})
}

func checkLabels(e *FieldErrors, field string, labels map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if err := CheckLabelKey(k); err != nil {
			e.add(field, err)
		}
		if err := CheckLabelValue(labels[k]); err != nil {
			e.add(field+"."+k, err)
		}
	}
}

// Validate checks what a person may set of a host.
func (r *Host) Validate() error {
	var e FieldErrors
	r.Metadata.check(&e)
	checkLabels(&e, "spec.labels", r.Spec.Labels)
	r.Spec.Claims.check(&e, "spec.claims")
	return e.OrNil()
}

// Validate always fails: workloads are reported, never written.
func (r *Workload) Validate() error {
	return FieldErrors{{Field: "kind", Message: "workloads are reported by agents and cannot be written; set labels on the host, the container or the unit"}}
}

// Validate checks that the group says who belongs.
func (r *Group) Validate() error {
	var e FieldErrors
	r.Metadata.check(&e)
	if r.Spec.Selector == nil && len(r.Spec.Groups) == 0 {
		e.add("spec", fmt.Errorf(`give a selector or groups; a selector of "*" takes every workload`))
	}
	for i, g := range r.Spec.Groups {
		field := fmt.Sprintf("spec.groups[%d]", i)
		if err := CheckName(g); err != nil {
			e.add(field, err)
		} else if g == r.Metadata.Name {
			e.add(field, fmt.Errorf("a group cannot contain itself"))
		}
	}
	if m := r.Spec.Mode; m != "" && !slices.Contains(Modes, m) {
		e.add("spec.mode", oneOf(m, Modes))
	}
	if m := r.Spec.Flows; m != "" && !slices.Contains(FlowModes, m) {
		e.add("spec.flows", oneOf(m, FlowModes))
	}
	return e.OrNil()
}

var deviceRE = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,15}$`)

// DefaultDevice is the interface at the tool where none is named.
const DefaultDevice = "weft0"

// Limits on a tap's snaplen: shorter than the headers is useless, longer than a
// super-frame says nothing.
const (
	MinSnaplen = 64
	MaxSnaplen = 65535
)

// Validate checks a tap's spec; the filter's grammar is the controller's to check.
func (r *Tap) Validate() error {
	var e FieldErrors
	r.Metadata.check(&e)
	r.Spec.From.check(&e, "spec.from")
	switch to := r.Spec.To.Selector != nil || r.Spec.To.Group != ""; {
	case r.Spec.Ring == nil:
		r.Spec.To.check(&e, "spec.to")
	case to:
		e.add("spec.ring", fmt.Errorf("give spec.to, which delivers, or spec.ring, which keeps, not both; make a tap for each"))
	case r.Spec.Deliver.Device != "":
		e.add("spec.deliver.device", fmt.Errorf("a ring delivers to no device"))
	default:
		r.Spec.Ring.check(&e, "spec.ring")
	}
	if s := r.Spec.Snaplen; s != 0 && (s < MinSnaplen || s > MaxSnaplen) {
		e.add("spec.snaplen", fmt.Errorf("%d is outside %d to %d; leave it out for whole frames", s, MinSnaplen, MaxSnaplen))
	}
	switch r.Spec.Direction {
	case "", DirectionBoth, DirectionIngress, DirectionEgress:
	default:
		e.add("spec.direction", fmt.Errorf("%q is none of Both, Ingress, Egress", r.Spec.Direction))
	}
	if d := r.Spec.Deliver.Device; d != "" && (!deviceRE.MatchString(d) || d == "." || d == "..") {
		e.add("spec.deliver.device", fmt.Errorf("%q is no device name: 1 to 15 letters, digits, '_', '.', '-'", d))
	}
	return e.OrNil()
}

func (p Endpoints) check(e *FieldErrors, field string) {
	switch {
	case p.Selector == nil && p.Group == "":
		e.add(field, fmt.Errorf("give a selector or a group"))
	case p.Selector != nil && p.Group != "":
		e.add(field, fmt.Errorf("give a selector or a group, not both"))
	case p.Group != "":
		if err := CheckName(p.Group); err != nil {
			e.add(field+".group", err)
		}
	}
}

// Validate checks what a person may set of a relay.
func (r *Relay) Validate() error {
	var e FieldErrors
	r.Metadata.check(&e)
	for i, a := range r.Spec.Addresses {
		host, port, err := net.SplitHostPort(a)
		n, numErr := strconv.ParseUint(port, 10, 16)
		if err != nil || numErr != nil || host == "" || n == 0 {
			e.add(fmt.Sprintf("spec.addresses[%d]", i), fmt.Errorf("%q is no address; write it like relay.example:443", a))
		}
	}
	return e.OrNil()
}

// Limits on join tokens.
const (
	MaxTokenUses = 100_000
	MaxTokenTTL  = 30 * 24 * time.Hour
)

// Validate checks a join token's bounds.
func (r *JoinToken) Validate() error {
	var e FieldErrors
	r.Metadata.check(&e)
	switch r.Spec.Role {
	case "", RoleHost, RoleRelay:
	default:
		e.add("spec.role", fmt.Errorf("%q is none of host, relay", r.Spec.Role))
	}
	if r.Spec.Uses < 0 || r.Spec.Uses > MaxTokenUses {
		e.add("spec.uses", fmt.Errorf("%d is outside 1 to %d", r.Spec.Uses, MaxTokenUses))
	}
	if _, err := parseTTL(r.Spec.TTL, MaxTokenTTL); err != nil {
		e.add("spec.ttl", err)
	}
	checkLabels(&e, "spec.labels", r.Spec.Labels)
	r.Spec.Claims.check(&e, "spec.claims")
	if r.Spec.Role == RoleRelay && len(r.Spec.Claims) > 0 {
		e.add("spec.claims", fmt.Errorf("relays have no labels to claim"))
	}
	return e.OrNil()
}

// Lifetime returns the token's time to live, one hour unless given.
func (s JoinTokenSpec) Lifetime() time.Duration {
	if d, err := parseTTL(s.TTL, MaxTokenTTL); err == nil && d > 0 {
		return d
	}
	return time.Hour
}

// Validate checks an access token's bounds.
func (r *AccessToken) Validate() error {
	var e FieldErrors
	r.Metadata.check(&e)
	switch r.Spec.Role {
	case "", AccessAdmin, AccessViewer:
	default:
		e.add("spec.role", fmt.Errorf("%q is none of admin, viewer", r.Spec.Role))
	}
	if _, err := parseTTL(r.Spec.TTL, 0); err != nil {
		e.add("spec.ttl", err)
	}
	return e.OrNil()
}

func parseTTL(text string, limit time.Duration) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is no duration; write it like 90s, 30m or 24h", text)
	case d <= 0:
		return 0, fmt.Errorf("%s is not positive", text)
	case limit > 0 && d > limit:
		return 0, fmt.Errorf("%s is longer than %s", text, limit)
	}
	return d, nil
}
