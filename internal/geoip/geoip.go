// Package geoip says where addresses are and whose they are, from MMDB files of
// the user: MaxMind's, or others' with the same fields.
package geoip

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/oschwald/maxminddb-golang/v2"
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
type DB struct{ files []file }

type file struct {
	name   string
	reader *maxminddb.Reader
}

// Open opens files. What they say of one address is put together; where two say
// the same, the first counts.
func Open(names ...string) (*DB, error) {
	db := &DB{}
	for _, name := range names {
		r, err := maxminddb.Open(name)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open %s as MMDB: %w; files are at https://dev.maxmind.com/geoip or https://db-ip.com/db/lite.php", name, err), db.Close())
		}
		db.files = append(db.files, file{name, r})
	}
	return db, nil
}

// Close closes the files.
func (db *DB) Close() error {
	var errs []error
	for _, f := range db.files {
		if err := f.reader.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", f.name, err))
		}
	}
	return errors.Join(errs...)
}

type record struct {
	Country struct {
		Code string `maxminddb:"iso_code"`
	} `maxminddb:"country"`
	City struct {
		Names map[string]string `maxminddb:"names"`
	} `maxminddb:"city"`
	AS           uint32 `maxminddb:"autonomous_system_number"`
	Organization string `maxminddb:"autonomous_system_organization"`
}

// Lookup returns nil where nothing is known of an address. It is safe for
// concurrent use. A file that is damaged knows nothing where it is.
func (db *DB) Lookup(a netip.Addr) *Place {
	var out Place
	for _, f := range db.files {
		var r record
		if err := f.reader.Lookup(a.Unmap()).Decode(&r); err != nil {
			continue
		}
		if out.Country == "" {
			out.Country = r.Country.Code
		}
		if out.City == "" {
			out.City = r.City.Names["en"]
		}
		if out.AS == 0 {
			out.AS, out.Organization = r.AS, r.Organization
		}
	}
	if out == (Place{}) {
		return nil
	}
	return &out
}
