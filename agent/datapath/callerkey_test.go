package datapath

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCallerKeysAgree(t *testing.T) {
	file := filepath.Join(t.TempDir(), "caller.key")
	a, err := OpenCallerKey(file)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenCallerKey(file)
	if err != nil || !bytes.Equal(a.Public(), again.Public()) {
		t.Fatalf("opened again: %v", err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", st.Mode(), err)
	}
	b, err := NewCallerKey()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[Secret]bool{}
	for term := range uint64(5) {
		for skew := range uint64(3) { // the receiver's clock
			callAB, _, err := a.secrets(1, caller{2, b.Public()}, term+1)
			if err != nil {
				t.Fatal(err)
			}
			callBA, acceptB, err := b.secrets(2, caller{1, a.Public()}, term+skew)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(acceptB, callAB) {
				t.Errorf("term %d is not accepted in %d", term+1, term+skew)
			}
			if slices.Contains(acceptB, callBA) {
				t.Error("one secret is for both directions")
			}
			if skew == 0 && seen[callAB] {
				t.Error("two terms have one secret")
			}
			seen[callAB] = true
		}
	}
	// Another number is another machine, whatever key it has.
	call, _, _ := a.secrets(1, caller{2, b.Public()}, 7)
	if _, accept, _ := b.secrets(2, caller{3, a.Public()}, 7); slices.Contains(accept, call) {
		t.Error("a number is not part of the secret")
	}
	for _, bad := range [][]byte{nil, make([]byte, 31), make([]byte, 32)} { // the last is of low order
		if _, _, err := a.secrets(1, caller{2, bad}, 7); err == nil {
			t.Errorf("%x was accepted", bad)
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	s := Secret{0xab, 0xcd}
	h := PeerHost{Number: 1, Call: s, Accept: []Secret{s}}
	state := State{Hosts: []PeerHost{h}}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "host", h, "state", &state)
	for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%x %v %+v %#v %d", s, h, h, h, s), state.String(), h.String(), log.String()} {
		if strings.Contains(strings.ToLower(text), "abcd") || strings.Contains(text, "171") || strings.Contains(text, "0xab") {
			t.Errorf("printed: %s", text)
		}
	}
}

func TestTermOf(t *testing.T) {
	if a, b := TermOf(time.Unix(7*86400*3-1, 0)), TermOf(time.Unix(7*86400*3, 0)); a != 2 || b != 3 {
		t.Errorf("%d %d", a, b)
	}
	if TermOf(time.Time{}) != 0 {
		t.Error("a clock that was never set")
	}
}
