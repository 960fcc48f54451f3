package topology

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"weft/model"
)

// Limits that the kernel sets.
const (
	// MaxAttachments of one switch: a Linux bridge has 1,024 ports.
	MaxAttachments = 1000
	maxEmulatedMTU = 9216
	minMTU         = 576
	maxMTU         = 65535
	maxName        = 40
)

var nameRE = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

type validator struct {
	file     string
	root     ast.Node
	topology *Topology
	errs     Errors
	switches map[string]*Switch
	nodes    map[string]bool
	attached map[string]int
}

// fail records a fault. The line is that of the field, or of the nearest
// enclosing one where the field is not written.
func (v *validator) fail(field, format string, args ...any) {
	e := Error{File: v.file, Field: field, Message: fmt.Sprintf(format, args...)}
	for path := field; path != "" && v.root != nil; path = path[:max(0, strings.LastIndexAny(path, ".["))] {
		p, err := yaml.PathString("$." + path)
		if err != nil {
			continue
		}
		if node, err := p.FilterNode(v.root); err == nil && node != nil && node.GetToken() != nil {
			e.Line = line(node)
			break
		}
	}
	v.errs = append(v.errs, e)
}

// line of a node; of a mapping, the line of its first key.
func line(node ast.Node) int {
	if m, ok := node.(*ast.MappingNode); ok && len(m.Values) > 0 && !m.IsFlowStyle {
		return m.Values[0].Key.GetToken().Position.Line
	}
	if m, ok := node.(*ast.MappingValueNode); ok {
		return m.Key.GetToken().Position.Line
	}
	return node.GetToken().Position.Line
}

func (v *validator) run() {
	t := v.topology
	v.switches, v.nodes, v.attached = map[string]*Switch{}, map[string]bool{}, map[string]int{}
	if t.APIVersion != APIVersion {
		v.fail("apiVersion", "%q is not a version this program knows; write %s", t.APIVersion, APIVersion)
	}
	if t.Kind != Kind {
		v.fail("kind", "%q is not a topology; write %s", t.Kind, Kind)
	}
	v.name("metadata.name", t.Metadata.Name)
	if len(t.Spec.Switches) == 0 {
		v.fail("spec.switches", "there is no switch; add one, for example - {name: lan}")
	}
	for i := range t.Spec.Switches {
		v.checkSwitch(fmt.Sprintf("spec.switches[%d]", i), &t.Spec.Switches[i])
	}
	for i := range t.Spec.Routers {
		v.checkRouter(fmt.Sprintf("spec.routers[%d]", i), &t.Spec.Routers[i])
	}
	for i := range t.Spec.Hosts {
		v.checkHost(fmt.Sprintf("spec.hosts[%d]", i), &t.Spec.Hosts[i])
	}
	for i, s := range t.Spec.Switches {
		if n := v.attached[s.Name]; n > MaxAttachments {
			v.fail(fmt.Sprintf("spec.switches[%d]", i), "%d attachments; a switch has room for %d, so split it in two with a router", n, MaxAttachments)
		}
	}
	if len(v.errs) == 0 {
		if _, errs := plan(t); len(errs) > 0 {
			for _, e := range errs {
				v.fail(e.field, "%s", e.message)
			}
		}
	}
}

func (v *validator) name(field, name string) bool {
	switch {
	case name == "":
		v.fail(field, "name is missing")
	case len(name) > maxName:
		v.fail(field, "name is %d bytes long; %d at most", len(name), maxName)
	case !nameRE.MatchString(name):
		v.fail(field, "name %q: use lower-case letters, digits and '-', beginning and ending with a letter or digit", name)
	default:
		return true
	}
	return false
}

func (v *validator) mtu(field string, mtu int) {
	if mtu != 0 && (mtu < minMTU || mtu > maxMTU) {
		v.fail(field, "%d is no MTU between %d and %d", mtu, minMTU, maxMTU)
	}
}

func (v *validator) checkSwitch(field string, s *Switch) {
	if v.name(field+".name", s.Name) {
		if v.switches[s.Name] != nil {
			v.fail(field+".name", "a switch %q is already there; choose another name", s.Name)
		}
		v.switches[s.Name] = s
	}
	v.mtu(field+".mtu", s.MTU)
	if s.Subnet.IsValid() {
		if s.Subnet.Overlaps(ContainerNet) {
			v.fail(field+".subnet", "%s overlaps %s, which containers use; choose another", s.Subnet, ContainerNet)
		}
		for i := range v.topology.Spec.Switches {
			o := &v.topology.Spec.Switches[i]
			if o == s {
				break
			}
			if o.Subnet.IsValid() && o.Subnet.Overlaps(s.Subnet.Prefix) {
				v.fail(field+".subnet", "%s overlaps %s of switch %q; choose another", s.Subnet, o.Subnet, o.Name)
			}
		}
	}
	v.cloud(field+".metadata", s.Cloud)
}

func (v *validator) nodeName(field, name string) {
	if !v.name(field, name) {
		return
	}
	if v.nodes[name] {
		v.fail(field, "a host or router %q is already there; choose another name", name)
	}
	v.nodes[name] = true
}

func (v *validator) attachment(field string, a Attachment) {
	s := v.switches[a.Switch]
	if s == nil {
		v.fail(field, "there is no switch %q; known are %s", a.Switch, v.switchNames())
		return
	}
	v.attached[a.Switch]++
	v.mtu(field+".mtu", a.MTU)
	if a.Address.IsValid() {
		v.address(field+".address", a.Address.Addr, s)
	}
	if err := a.Impairment.Check(); err != nil {
		v.fail(field, "%v", err)
	}
}

func (v *validator) address(field string, a netip.Addr, s *Switch) {
	if !s.Subnet.IsValid() {
		v.fail(field, "switch %q has no subnet to which %s could belong; give it one", s.Name, a)
	} else if !s.Subnet.Contains(a) || a == s.Subnet.Addr() || a == last(s.Subnet.Prefix) {
		v.fail(field, "%s is no host address of %s (switch %q)", a, s.Subnet, s.Name)
	}
}

func (v *validator) switchNames() string {
	names := make([]string, len(v.topology.Spec.Switches))
	for i, s := range v.topology.Spec.Switches {
		names[i] = s.Name
	}
	return strings.Join(names, ", ")
}

func (v *validator) oneOf(field, value string, allowed ...string) {
	if value == "" {
		return
	}
	for _, a := range allowed {
		if a == value {
			return
		}
	}
	v.fail(field, "%q is none of %s", value, strings.Join(allowed, ", "))
}

func (v *validator) checkRouter(field string, r *Router) {
	v.nodeName(field+".name", r.Name)
	if r.Uplink != nil {
		v.attachment(field+".uplink", *r.Uplink)
	}
	if len(r.Downlinks) == 0 {
		v.fail(field+".downlinks", "router %q has no downlink; name the switches it serves", r.Name)
	}
	for i, d := range r.Downlinks {
		v.attachment(indexed(field+".downlinks", i, len(r.Downlinks)), d)
	}
	v.oneOf(field+".nat", string(r.NAT), string(NATNone), string(NATPortRestricted), string(NATHard), string(NATOneToOne))
	translates := r.NAT != "" && r.NAT != NATNone
	if r.Uplink == nil && (translates || len(r.Forward) > 0) {
		v.fail(field+".nat", "address translation needs an uplink; add uplink: SWITCH")
	}
	if len(r.Forward) > 0 && !translates {
		v.fail(field+".forward", "forwarding ports needs address translation; add for example nat: port-restricted")
	}
	if f := r.Firewall; f != nil {
		for name, value := range map[string]string{"udp": f.UDP, "icmp": f.ICMP, "inbound": f.Inbound} {
			v.oneOf(field+".firewall."+name, value, "allowed", "blocked")
		}
		for i, p := range f.OnlyTCP {
			if p < 1 || p > 65535 {
				v.fail(fmt.Sprintf("%s.firewall.onlyTCP[%d]", field, i), "%d is no port between 1 and 65535", p)
			}
		}
	}
	hosts := map[string]bool{}
	for _, h := range v.topology.Spec.Hosts {
		hosts[h.Name] = true
	}
	for i, f := range r.Forward {
		if !hosts[f.Host] {
			v.fail(fmt.Sprintf("%s.forward[%d]", field, i), "there is no host %q", f.Host)
		}
	}
}

// indexed is the path of the i-th of n attachments, which may be written
// without a list where there is one.
func indexed(field string, i, n int) string {
	if n == 1 {
		return field
	}
	return fmt.Sprintf("%s[%d]", field, i)
}

func (v *validator) checkHost(field string, h *Host) {
	v.nodeName(field+".name", h.Name)
	if len(h.Attach) == 0 {
		v.fail(field+".attach", "host %q is attached to nothing; add attach: SWITCH", h.Name)
	}
	for i, a := range h.Attach {
		v.attachment(indexed(field+".attach", i, len(h.Attach)), a)
	}
	if h.Gateway.IsValid() && len(h.Attach) > 0 && v.switches[h.Attach[0].Switch] != nil {
		v.address(field+".gateway", h.Gateway.Addr, v.switches[h.Attach[0].Switch])
	}
	v.labels(field+".labels", h.Labels)
	for i, n := range h.Names {
		if err := model.CheckName(n); err != nil {
			v.fail(fmt.Sprintf("%s.names[%d]", field, i), "%v", err)
		}
	}
	if h.Public != "" && h.Public != "auto" {
		if a, err := netip.ParseAddr(h.Public); err != nil || !a.Is4() {
			v.fail(field+".public", "%q is neither auto nor an IPv4 address", h.Public)
		}
	}
	v.cloud(field+".metadata", h.Cloud)
	if c := v.effectiveCloud(h); c != nil && c.Provider == "" {
		v.fail(field+".metadata", "provider is missing; write aws, gcp or azure here or on the switch")
	}
	v.workloads(field, h)
}

func (v *validator) effectiveCloud(h *Host) *Cloud {
	if len(h.Attach) == 0 || v.switches[h.Attach[0].Switch] == nil {
		return nil
	}
	return h.Cloud.merged(v.switches[h.Attach[0].Switch].Cloud)
}

func (v *validator) workloads(field string, h *Host) {
	seen, published := map[string]bool{}, map[string]string{}
	for i, c := range h.Containers {
		f := fmt.Sprintf("%s.containers[%d]", field, i)
		if v.name(f+".name", c.Name) && seen[c.Name] {
			v.fail(f+".name", "host %q already has a %q; choose another name", h.Name, c.Name)
		}
		seen[c.Name] = true
		v.labels(f+".labels", c.Labels)
		if a := c.Address; a.IsValid() && (!ContainerNet.Contains(a.Addr) || a.Addr == ContainerNet.Addr() || a.Addr == ContainerNet.Addr().Next()) {
			v.fail(f+".address", "%s is no container address of %s", a, ContainerNet)
		}
		for j, p := range c.Publish {
			key := fmt.Sprintf("%d/%s", p.HostPort, p.Protocol)
			if other, taken := published[key]; taken {
				v.fail(fmt.Sprintf("%s.publish[%d]", f, j), "port %s is already published by %q; choose another", key, other)
			}
			published[key] = c.Name
		}
	}
	for i, u := range h.Units {
		f := fmt.Sprintf("%s.units[%d]", field, i)
		if v.name(f+".name", u.Name) && seen[u.Name] {
			v.fail(f+".name", "host %q already has a %q; choose another name", h.Name, u.Name)
		}
		seen[u.Name] = true
		v.labels(f+".labels", u.Labels)
	}
}

func (v *validator) labels(field string, labels map[string]string) {
	for k, value := range labels {
		if err := model.CheckLabelKey(k); err != nil {
			v.fail(field, "%v", err)
		} else if err := model.CheckLabelValue(value); err != nil {
			v.fail(field+"."+k, "%v", err)
		} else if strings.Contains(value, ",") || strings.ContainsAny(k, ",=") {
			v.fail(field+"."+k, "label %s=%s: ',' and '=' cannot be carried to an agent", k, value)
		}
	}
}

func (v *validator) cloud(field string, c *Cloud) {
	if c == nil {
		return
	}
	v.oneOf(field+".provider", c.Provider, "aws", "gcp", "azure")
}
