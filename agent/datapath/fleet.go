package datapath

import (
	"fmt"
	"net/netip"

	"github.com/RoaringBitmap/roaring/v2"

	"weft/policy"
	"weft/wire/policywire"
	"weft/wire/wirepb"
)

// fleet is who is who, as an identity section says.
type fleet struct {
	members   map[string]*roaring.Bitmap // by selector
	addresses map[netip.Addr]policy.Identity
}

// readFleet reads a section. A selector whose members are as before keeps its
// bitmap, which is how others see that nothing has changed.
func readFleet(s *wirepb.IdentitySection, before fleet) (fleet, error) {
	out := fleet{members: map[string]*roaring.Bitmap{}, addresses: map[netip.Addr]policy.Identity{}}
	for _, m := range s.GetSelectors() {
		b := roaring.BitmapOf(m.GetIdentities()...)
		if old := before.members[m.GetSelector()]; old != nil && old.Equals(b) {
			b = old
		}
		out.members[m.GetSelector()] = b
	}
	for _, m := range s.GetAddresses() {
		a, err := policywire.DecodeAddress(m.GetAddress())
		if err != nil {
			return out, fmt.Errorf("read section identity: %w", err)
		}
		out.addresses[a] = policy.Identity(m.GetIdentity())
	}
	return out, nil
}
