// Package geoip says where addresses are and whose they are, from MMDB files of
// the user: MaxMind's, or others' with the same fields.
package geoip

import (
	"net/netip"
)

// Place is what is known of an address. Fields that the files do not have are
// empty.
type Place struct {
	Country      string `json:"country,omitempty"` // ISO 3166-1, two letters
	City         string `json:"city,omitempty"`    // in English
	AS           uint32 `json:"as,omitempty"`
	Organization string `json:"organization,omitempty"` // that has the AS
}

// DB is any number of files: one may know countries, another autonomous systems.
type DB struct{ files []*file }

// Open reads files. What they say of one address is put together; where two say
// the same, the first counts.
func Open(names ...string) (*DB, error) {
	db := &DB{}
	for _, name := range names {
		f, err := read(name)
		if err != nil {
			return nil, err
		}
		db.files = append(db.files, f)
	}
	return db, nil
}

// shared is for carriers' customers (RFC 6598): everybody's, as private ones are.
var shared = netip.MustParsePrefix("100.64.0.0/10")

// Lookup finds the place of an address; nothing is known of those that are not
// somewhere on the Internet, whatever a file says of them. It is safe for
// concurrent use, and allocates nothing for what a file has been asked about. A
// file that is damaged knows nothing where it is.
func (db *DB) Lookup(a netip.Addr) (out Place) {
	if a = a.Unmap(); len(db.files) == 0 || !a.IsGlobalUnicast() || a.IsPrivate() || shared.Contains(a) {
		return out
	}
	for _, f := range db.files {
		p := f.lookup(a)
		if out.Country == "" {
			out.Country = p.Country
		}
		if out.City == "" {
			out.City = p.City
		}
		if out.AS == 0 {
			out.AS, out.Organization = p.AS, p.Organization
		}
	}
	return out
}
