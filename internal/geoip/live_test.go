package geoip_test

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/internal/geoip"
	"weft/internal/geoip/geoiptest"
)

// A file that is replaced is read again. While it is broken or gone, what it was
// before is used, and it is said once what is wrong.
func TestReplacedFilesAreReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "countries.mmdb")
	put := func(country string) {
		t.Helper()
		if err := geoiptest.Write(file, map[string]geoip.Place{"198.51.100.0/24": {Country: country}}); err != nil {
			t.Fatal(err)
		}
	}
	put("NO")
	systems := write(t, "systems.mmdb", map[string]geoip.Place{"198.51.100.0/24": {AS: 64500, Organization: "Example"}})
	said := make(chan string, 10)
	l, err := geoip.New(geoip.Config{Files: []string{file, systems}, Every: time.Millisecond},
		geoip.Deps{Stale: func(f string, _ time.Time, message string) { said <- filepath.Base(f) + ": " + message }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx, func() {}) }()
	is := func(country string) {
		t.Helper()
		until := time.After(30 * time.Second)
		for {
			p := l.Lookup(netip.MustParseAddr("198.51.100.7"))
			if p.AS != 64500 {
				t.Fatalf("the other file knows nothing any more: %+v", p)
			}
			if p.Country == country {
				return
			}
			select {
			case <-until:
				t.Fatalf("it is %q, want %q", p.Country, country)
			case <-time.After(time.Millisecond):
			}
		}
	}
	is("NO")
	put("SE")
	is("SE")
	if err := os.WriteFile(file+".new", []byte("not one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	if s := <-said; !strings.HasPrefix(s, "countries.mmdb: open ") || !strings.HasSuffix(s, "what the file was before is used") {
		t.Errorf("of a broken file: %q", s)
	}
	is("SE")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if s := <-said; !strings.Contains(s, "no such file") {
		t.Errorf("of a file that is gone: %q", s)
	}
	is("SE")
	put("FI")
	is("FI")
	if s := <-said; s != "countries.mmdb: " {
		t.Errorf("of a file that is well again: %q", s)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(said) > 0 {
		t.Errorf("and: %q", <-said)
	}
}

func TestNoFilesKnowNothing(t *testing.T) {
	l, err := geoip.New(geoip.Config{}, geoip.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if p := l.Lookup(netip.MustParseAddr("198.51.100.7")); p != (geoip.Place{}) {
		t.Errorf("%+v", p)
	}
}
