package identity

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"weft/policy"
)

func number(t *testing.T, x *Table, labels map[string]string) policy.Identity {
	t.Helper()
	n, err := x.Number(labels)
	if err != nil || n == 0 {
		t.Fatalf("number %v: %d, %v", labels, n, err)
	}
	return n
}

func set(v string) map[string]string { return map[string]string{"app": v} }

func TestNumbersStayOverRestarts(t *testing.T) {
	cfg := Config{File: filepath.Join(t.TempDir(), "identities.json"), Fresh: true}
	x := Open(cfg)
	a, b := number(t, x, set("a")), number(t, x, set("b"))
	if a != 1 || b != 2 || number(t, x, set("a")) != a {
		t.Fatalf("a is %d, b is %d", a, b)
	}
	if err := x.Save(); err != nil {
		t.Fatal(err)
	}
	y := Open(cfg)
	if got := number(t, y, set("b")); got != b {
		t.Errorf("b is %d after a restart, was %d", got, b)
	}
}

// A controller that was killed before it saved gives other numbers, and none again.
func TestNoNumberIsGivenTwice(t *testing.T) {
	cfg := Config{File: filepath.Join(t.TempDir(), "identities.json"), Fresh: true}
	given := map[policy.Identity]string{}
	take := func(x *Table, v string) {
		n := number(t, x, set(v))
		if other, dup := given[n]; dup && other != v {
			t.Fatalf("%d is %s and %s", n, other, v)
		}
		given[n] = v
	}
	for _, round := range []string{"killed", "killed again", "file lost", "file damaged"} {
		switch round {
		case "file lost":
			os.Remove(cfg.File)
			cfg.Fresh = false
		case "file damaged":
			if err := os.WriteFile(cfg.File, []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		x := Open(cfg)
		if round == "file damaged" {
			x.next, x.reserved = x.next+2*ahead, x.reserved+2*ahead // a test is faster than a second a number
		}
		for _, v := range []string{"c", "a", round, "b"} {
			take(x, v)
		}
	}
}

func TestUnusedSetsAreForgotten(t *testing.T) {
	x := Open(Config{File: filepath.Join(t.TempDir(), "identities.json"), Fresh: true})
	a := number(t, x, set("a"))
	x.now = func() time.Time { return time.Now().Add(keepFor + time.Hour) }
	number(t, x, set("b"))
	if err := x.Save(); err != nil {
		t.Fatal(err)
	}
	if got := number(t, x, set("a")); got == a {
		t.Errorf("the set came back with %d, which hosts may hold for what it was then", got)
	}
}

func TestNoNumberWithoutTheFile(t *testing.T) {
	x := Open(Config{File: filepath.Join(t.TempDir(), "absent", "identities.json"), Fresh: true})
	if n, err := x.Number(set("a")); err == nil {
		t.Errorf("number %d although nothing can be kept", n)
	}
}
