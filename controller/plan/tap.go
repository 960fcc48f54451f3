package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/model"
	"weft/wire"
	"weft/wire/wirepb"
)

func (c *compute) tap(t *model.Tap) *Tap {
	out := &Tap{UID: t.Metadata.UID}
	sources, tools, err := c.resolver.Tap(t.Spec)
	if err != nil {
		out.Problems, out.Refused = append(out.Problems, err.Error()), true
		return out
	}
	for _, w := range sources {
		out.Sources = append(out.Sources, Source{Workload: w.Metadata.Name, ID: WorkloadID(w), Host: w.Spec.Host})
	}
	for _, w := range tools {
		out.Tools = append(out.Tools, w.Spec.Host)
	}
	slices.Sort(out.Tools)
	if r := t.Spec.Ring; r != nil {
		out.Ring, out.Tools = true, []string{""}
		c.rings = append(c.rings, &wirepb.Ring{Line: LineID(t.Metadata.UID, ""), Tap: t.Metadata.Name, Bytes: r.Bytes(), Seconds: uint64(r.Duration().Seconds())})
	}
	if len(out.Sources) == 0 {
		out.Problems = append(out.Problems, "spec.from matches no workload that could be tapped; `weft get workloads -l SELECTOR` shows what a selector finds")
	}
	if len(out.Tools) == 0 { // a ring has one
		out.Problems = append(out.Problems, "spec.to matches no host with an agent; give the tool's host the label, or install the agent there")
	}
	var filter Filter
	if t.Spec.Filter != "" {
		if filter, err = c.compile(t.Spec.Filter); err != nil {
			out.Problems, out.Refused = append(out.Problems, "spec.filter: "+err.Error()), true
		}
	}
	if out.Refused || t.Spec.Paused {
		return out
	}
	if out.Ring {
		c.sources(t, "", nil, filter, out.Sources)
		return out
	}
	for _, tool := range out.Tools {
		c.line(t, tool, filter, out.Sources)
	}
	return out
}

func (c *compute) compile(expression string) (Filter, error) {
	if c.Filter == nil {
		return Filter{}, fmt.Errorf("this controller was built without a filter compiler")
	}
	return c.Filter(expression)
}

// line adds one tap's line toward one tool to the hosts at both ends.
func (c *compute) line(t *model.Tap, tool string, filter Filter, sources []Source) {
	deliver := &wirepb.DeliverLine{Line: LineID(t.Metadata.UID, tool), Tap: t.Metadata.Name, Device: cmp.Or(t.Spec.Deliver.Device, model.DefaultDevice)}
	toolPeer := c.peer(tool)
	toolPeer.Addresses = directAddresses(c.Interfaces[tool])
	for _, host := range c.sources(t, tool, toolPeer, filter, sources) {
		deliver.Sources = append(deliver.Sources, c.peer(host))
	}
	// A tool without sources still gets its line, so that the device is there
	// before the first packet and `tcpdump -i weft0` can be started early.
	slices.SortFunc(deliver.Sources, func(a, b *wirepb.Peer) int { return cmp.Compare(a.Name, b.Name) })
	c.hosts[tool].deliver = append(c.hosts[tool].deliver, deliver)
}

// sources adds one tap's line toward one tool to the hosts of its sources.
func (c *compute) sources(t *model.Tap, tool string, peer *wirepb.Peer, filter Filter, sources []Source) (hosts []string) {
	byHost := map[string][]string{}
	for _, s := range sources {
		if s.Host != tool {
			byHost[s.Host] = append(byHost[s.Host], s.ID)
		}
	}
	for host, ids := range byHost {
		slices.Sort(ids)
		c.hosts[host].capture = append(c.hosts[host].capture, &wirepb.CaptureLine{
			Line: LineID(t.Metadata.UID, tool), Tap: t.Metadata.Name, Tool: peer, Workloads: ids,
			Filter: t.Spec.Filter, FilterEthernet: filter.Ethernet, FilterRaw: filter.Raw, Snaplen: uint32(t.Spec.Snaplen),
			Ingress: t.Spec.Direction != model.DirectionEgress, Egress: t.Spec.Direction != model.DirectionIngress,
		})
		hosts = append(hosts, host)
	}
	return hosts
}

func (c *compute) peer(host string) *wirepb.Peer {
	id := wire.Identity{TrustDomain: c.TrustDomain, Role: model.RoleHost, Name: host, UID: c.hosts[host].host.Metadata.UID}
	return &wirepb.Peer{Name: host, SpiffeId: id.String()}
}

// directAddresses are where a tool's agent may be reached without a relay: the
// addresses of its uplinks. Which of them works is found out by dialling.
func directAddresses(interfaces []model.Interface) []string {
	var addrs []netip.Addr
	for _, i := range interfaces {
		if !i.Uplink {
			continue
		}
		for _, text := range i.Addresses {
			p, err := netip.ParsePrefix(text)
			if err == nil && p.Addr().IsGlobalUnicast() {
				addrs = append(addrs, p.Addr().Unmap())
			}
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare) // IPv4 first
	var out []string
	for _, a := range slices.Compact(addrs) {
		out = append(out, netip.AddrPortFrom(a, DirectPort).String())
	}
	return out
}

// WorkloadUID makes a workload's UID of its host's and of the id that the
// host's agent gave it.
func WorkloadUID(hostUID, id string) string { return hostUID + "/" + id }

// WorkloadID is the id that the host's agent knows a workload by.
func WorkloadID(w *model.Workload) string {
	_, id, _ := strings.Cut(w.Metadata.UID, "/")
	return id
}
