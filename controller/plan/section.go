package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"weft/model"
	"weft/wire"
	"weft/wire/wirepb"
)

type hostLines struct {
	host    *model.Host
	capture []*wirepb.CaptureLine
	deliver []*wirepb.DeliverLine
}

// relays are offered to whoever has a line, sorted by name.
func (c *compute) relays() []*wirepb.RelayEndpoint {
	var out []*wirepb.RelayEndpoint
	for _, r := range c.Relays {
		if r.Spec.Revoked {
			continue
		}
		id := wire.Identity{TrustDomain: c.TrustDomain, Role: model.RoleRelay, Name: r.Metadata.Name, UID: r.Metadata.UID}
		out = append(out, &wirepb.RelayEndpoint{Name: r.Metadata.Name, SpiffeId: id.String(), Addresses: slices.Clone(r.Spec.Addresses)})
	}
	slices.SortFunc(out, func(a, b *wirepb.RelayEndpoint) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// sections writes what was collected for a host. A host without lines to or from
// another is told of no relay, so that an idle agent keeps one connection and not two.
func (h *hostLines) sections(relays []*wirepb.RelayEndpoint, rings []*wirepb.Ring, idle []*wirepb.Section) []*wirepb.Section {
	slices.SortFunc(h.capture, func(a, b *wirepb.CaptureLine) int { return cmp.Compare(a.Line, b.Line) })
	slices.SortFunc(h.deliver, func(a, b *wirepb.DeliverLine) int { return cmp.Compare(a.Line, b.Line) })
	transport := &wirepb.TransportSection{Listen: len(h.deliver) > 0}
	if len(h.deliver) > 0 || slices.ContainsFunc(h.capture, func(l *wirepb.CaptureLine) bool { return l.Tool != nil }) {
		transport.Relays = relays
	}
	if len(h.capture)+len(h.deliver) == 0 {
		return slices.Clone(idle)
	}
	return []*wirepb.Section{
		seal(SectionTransport, &wirepb.Section{Body: &wirepb.Section_Transport{Transport: transport}}),
		seal(SectionDeliver, &wirepb.Section{Body: &wirepb.Section_Deliver{Deliver: &wirepb.DeliverSection{Lines: h.deliver}}}),
		seal(SectionCapture, &wirepb.Section{Body: &wirepb.Section_Capture{Capture: &wirepb.CaptureSection{Lines: h.capture, Rings: rings}}}),
	}
}

// idleSections are those of a host without lines: most hosts have none.
func idleSections(rings []*wirepb.Ring) []*wirepb.Section {
	return []*wirepb.Section{
		seal(SectionTransport, &wirepb.Section{Body: &wirepb.Section_Transport{Transport: &wirepb.TransportSection{}}}),
		seal(SectionDeliver, &wirepb.Section{Body: &wirepb.Section_Deliver{Deliver: &wirepb.DeliverSection{}}}),
		seal(SectionCapture, &wirepb.Section{Body: &wirepb.Section_Capture{Capture: &wirepb.CaptureSection{Rings: rings}}}),
	}
}

func seal(name string, s *wirepb.Section) *wirepb.Section {
	s.Name, s.Digest = name, digest(s)
	return s
}

// digest is the SHA-256 of the section's body in deterministic encoding. The
// agent never computes it; it only compares. So the two sides need not agree
// on the encoding of a field that one of them does not know. The sections of
// policy, which may be large, have digests of their parts' digests.
func digest(s *wirepb.Section) string {
	var body proto.Message
	switch b := s.Body.(type) {
	case *wirepb.Section_Transport:
		body = b.Transport
	case *wirepb.Section_Deliver:
		body = b.Deliver
	case *wirepb.Section_Capture:
		body = b.Capture
	case *wirepb.Section_Flow:
		body = b.Flow
	case *wirepb.Section_Monitor:
		body = b.Monitor
	case *wirepb.Section_Probe:
		body = b.Probe
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(body)
	if err != nil {
		panic(fmt.Sprintf("encode section %s: %v", s.Name, err)) // only messages of our own making
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
