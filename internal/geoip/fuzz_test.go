package geoip

import (
	"net/netip"
	"os"
	"testing"
	"unicode/utf8"
)

// Whatever a file is, it is refused or asked without harm, and what it says is
// bounded.
func FuzzFile(f *testing.F) {
	seed, err := os.ReadFile("testdata/small.mmdb")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte("\xab\xcd\xefMaxMind.com"))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := parse("fuzz", data)
		if err != nil {
			return
		}
		for _, a := range []string{"198.51.100.7", "203.0.113.9", "8.8.8.8", "2a00::1"} {
			p := x.lookup(netip.MustParseAddr(a))
			if len(p.Country) > 2 || len(p.City) > maxName || len(p.Organization) > maxName || !utf8.ValidString(p.City+p.Organization+p.Country) {
				t.Errorf("%s: %+v", a, p)
			}
		}
	})
}

// What is remembered is bounded, whatever a file has.
func TestPlacesAreBounded(t *testing.T) {
	x, err := read("testdata/small.mmdb")
	if err != nil {
		t.Fatal(err)
	}
	for i := range uintptr(maxPlaces) {
		x.places[1<<40+i] = Place{}
	}
	if p := x.lookup(netip.MustParseAddr("198.51.100.7")); p.Country != "NO" || len(x.places) != 1 {
		t.Errorf("%+v, and %d are remembered", p, len(x.places))
	}
}
