package geoip

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// write makes a file that knows one network.
func write(t *testing.T, kind, network string, value mmdbtype.Map) string {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: kind, RecordSize: 24, IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	_, n, err := net.ParseCIDR(network)
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Insert(n, value); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), kind+".mmdb")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := tree.WriteTo(f); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestLookup(t *testing.T) {
	cities := write(t, "City", "198.51.100.0/24", mmdbtype.Map{
		"country": mmdbtype.Map{"iso_code": mmdbtype.String("NO")},
		"city":    mmdbtype.Map{"names": mmdbtype.Map{"en": mmdbtype.String("Bergen"), "no": mmdbtype.String("Bjørgvin")}},
	})
	systems := write(t, "ASN", "198.51.0.0/16", mmdbtype.Map{"autonomous_system_number": mmdbtype.Uint32(64500), "autonomous_system_organization": mmdbtype.String("Example")})
	db, err := Open(cities, systems)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for text, want := range map[string]Place{
		"198.51.100.7":        {"NO", "Bergen", 64500, "Example"},
		"::ffff:198.51.100.7": {"NO", "Bergen", 64500, "Example"},
		"198.51.3.7":          {AS: 64500, Organization: "Example"},
		"2001:db8::1":         {},
	} {
		got := db.Lookup(netip.MustParseAddr(text))
		if got == nil {
			got = &Place{}
		}
		if *got != want {
			t.Errorf("%s: %+v, want %+v", text, *got, want)
		}
	}
}

func TestWhatIsNoDatabase(t *testing.T) {
	name := filepath.Join(t.TempDir(), "cities.mmdb")
	if err := os.WriteFile(name, []byte("not one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(name); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "https://") {
		t.Error(err)
	}
}
