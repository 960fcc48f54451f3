package conversations

import "weft/internal/geoip"

// Place is where an address is.
type Place = geoip.Place

// Locate says of all ends where they are.
func (s *Summary) Locate(db *geoip.DB) {
	for i := range s.Conversations {
		c := &s.Conversations[i]
		c.ClientPlace, c.ServerPlace = db.Lookup(c.Client.Addr()), db.Lookup(c.Server.Addr())
	}
}
