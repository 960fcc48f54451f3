package geoip_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/geoip"
	"weft/internal/geoip/geoiptest"
)

// write makes a file in a directory of the test.
func write(t testing.TB, name string, networks map[string]geoip.Place) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := geoiptest.Write(file, networks); err != nil {
		t.Fatal(err)
	}
	return file
}

func open(t testing.TB, files ...string) *geoip.DB {
	t.Helper()
	db, err := geoip.Open(files...)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestLookup(t *testing.T) {
	cities := write(t, "cities.mmdb", map[string]geoip.Place{
		"198.51.100.0/24": {Country: "NO", City: "Bergen"}, "0.0.0.0/5": {Country: "US"},
		"192.168.0.0/16": {Country: "DE"}, "100.64.0.0/10": {Country: "DE"}, "fc00::/7": {Country: "DE"}, "127.0.0.0/8": {Country: "DE"}, "169.254.0.0/16": {Country: "DE"},
		"203.0.113.0/24": {Country: "\x1b[", City: "a\x1b[31m\nb " + strings.Repeat("é", 200)}, "2a00::/12": {Country: "FR"},
	})
	systems := write(t, "systems.mmdb", map[string]geoip.Place{"198.51.0.0/16": {AS: 64500, Organization: "Example"}})
	db := open(t, cities, systems)
	for text, want := range map[string]geoip.Place{
		"198.51.100.7":        {Country: "NO", City: "Bergen", AS: 64500, Organization: "Example"},
		"::ffff:198.51.100.7": {Country: "NO", City: "Bergen", AS: 64500, Organization: "Example"},
		"198.51.3.7":          {AS: 64500, Organization: "Example"},
		"2001:db8::1":         {},
		"2a00:1::1":           {Country: "FR"},
		// What is nowhere on the Internet is nowhere.
		"192.168.1.1": {}, "100.64.3.4": {}, "fd00::1": {}, "127.0.0.1": {}, "169.254.1.1": {}, "0.0.0.0": {}, "::1": {},
		// No text of a file gets at a terminal, or grows without a bound.
		"203.0.113.9": {City: "a[31mb " + strings.Repeat("é", 45)},
	} {
		if got := db.Lookup(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
	if got := db.Lookup(netip.Addr{}); got != (geoip.Place{}) {
		t.Errorf("no address: %+v", got)
	}
}

// Of what a file was asked about before, nothing is allocated, and of other
// addresses of the same network neither.
func TestLookupDoesNotAllocate(t *testing.T) {
	db := open(t, write(t, "cities.mmdb", map[string]geoip.Place{"198.51.100.0/24": {Country: "NO", City: "Bergen"}}),
		write(t, "systems.mmdb", map[string]geoip.Place{"198.51.0.0/16": {AS: 64500, Organization: "Example"}}))
	db.Lookup(netip.MustParseAddr("198.51.100.255"))
	n := byte(0)
	if allocated := testing.AllocsPerRun(1000, func() {
		n++
		if p := db.Lookup(netip.AddrFrom4([4]byte{198, 51, 100, n})); p.Country != "NO" || p.AS != 64500 {
			t.Fatalf("%+v", p)
		}
		db.Lookup(netip.AddrFrom4([4]byte{203, 0, 113, n}))
	}); allocated > 0 {
		t.Errorf("%g allocations for a lookup", allocated)
	}
}

func TestWhatIsNoDatabase(t *testing.T) {
	name := filepath.Join(t.TempDir(), "cities.mmdb")
	if err := os.WriteFile(name, []byte("not one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := geoip.Open(name); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "https://") {
		t.Error(err)
	}
	if _, err := geoip.Open(name + ".none"); err == nil || !strings.Contains(err.Error(), name+".none") {
		t.Error(err)
	}
	if _, err := geoip.Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Error(err)
	}
}
