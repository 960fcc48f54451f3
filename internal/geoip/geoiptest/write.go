// Package geoiptest makes MMDB files for tests.
package geoiptest

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"weft/internal/geoip"
)

// Write makes a file, or puts it in the place of another, that knows networks'
// places: with the fields that MaxMind's have.
func Write(file string, networks map[string]geoip.Place) error {
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test", RecordSize: 24, IncludeReservedNetworks: true})
	if err != nil {
		return fmt.Errorf("make an MMDB: %w", err)
	}
	for network, p := range networks {
		_, n, err := net.ParseCIDR(network)
		if err != nil {
			return err
		}
		value := mmdbtype.Map{}
		if p.Country != "" {
			value["country"] = mmdbtype.Map{"iso_code": mmdbtype.String(p.Country)}
		}
		if p.City != "" {
			value["city"] = mmdbtype.Map{"names": mmdbtype.Map{"en": mmdbtype.String(p.City), "de": mmdbtype.String("anders")}}
		}
		if p.AS != 0 {
			value["autonomous_system_number"], value["autonomous_system_organization"] = mmdbtype.Uint32(p.AS), mmdbtype.String(p.Organization)
		}
		if err := tree.Insert(n, value); err != nil {
			return fmt.Errorf("make an MMDB: %w", err)
		}
	}
	fresh, err := os.Create(file + ".new")
	if err != nil {
		return err
	}
	_, err = tree.WriteTo(fresh)
	if err := errors.Join(err, fresh.Close()); err != nil {
		return fmt.Errorf("write an MMDB: %w", err)
	}
	return os.Rename(fresh.Name(), file)
}
