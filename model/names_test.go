package model

import (
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	for _, good := range []string{"a", "web-1", "web-1.eu.example", "0", strings.Repeat("a", MaxName)} {
		if err := CheckName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "A", "-a", "a-", "a_b", "a/b", "a:b", "a b", "..", "a\n", strings.Repeat("a", MaxName+1)} {
		if CheckName(bad) == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestLabels(t *testing.T) {
	for _, good := range []string{"app", "cloud.tag/team/cost", "a:b", "A_b-c.d/e", "9"} {
		if err := CheckLabelKey(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "-a", "a-", "a b", "a=b", "a,b", "!a", "a(b", strings.Repeat("a", MaxLabelKey+1)} {
		if CheckLabelKey(bad) == nil {
			t.Errorf("key %q was accepted", bad)
		}
	}
	for _, bad := range []string{"a b", "a,b", "a=b", "(a", "é", strings.Repeat("a", MaxLabelValue+1)} {
		if CheckLabelValue(bad) == nil {
			t.Errorf("value %q was accepted", bad)
		}
	}
}

// What comes from elsewhere always makes a label, and what is one stays as it is.
func FuzzCleanLabelValue(f *testing.F) {
	f.Add("ghcr.io/a/b@sha256:0123")
	f.Add("Debian GNU/Linux 12 (bookworm)")
	f.Add("\xff é")
	f.Fuzz(func(t *testing.T, text string) {
		clean := CleanLabelValue(text)
		if err := CheckLabelValue(clean); err != nil {
			t.Errorf("%q became %q: %v", text, clean, err)
		}
		if CheckLabelValue(text) == nil && clean != text {
			t.Errorf("%q became %q", text, clean)
		}
	})
}

func TestLedgerBalances(t *testing.T) {
	c := func(n uint64) Count { return Count{n, 100 * n} }
	l := Ledger{Seen: c(36), Filtered: c(1), Sampled: c(2), Deduplicated: c(3), Shed: c(4), RingDropped: c(5), PathDropped: c(6), Delivered: c(7), InFlight: c(8)}
	if err := l.Check(); err != nil {
		t.Error(err)
	}
	if err := l.Add(l).Check(); err != nil {
		t.Error(err)
	}
	l.Delivered.Bytes--
	if err := l.Check(); err == nil || err.Error() != "ledger does not balance: seen 36 packets 3600 bytes, accounted for 36 packets 3599 bytes" {
		t.Errorf("got %v", err)
	}
}
