package datapathtest

import (
	"fmt"
	"testing"
)

// Hold makes an attempt that must be allowed, keeps the connection, and returns
// what uses it.
func (s *Site) Hold(t *testing.T, from, to, network string, port uint16) (talk func() Outcome) {
	t.Helper()
	a := Attempt{From: s.Endpoint(from), To: s.Endpoint(to), Network: network, Port: port}
	got, held, err := s.caller.Dial(a)
	if got != Allowed {
		t.Fatalf("%s: %s %v", a, got, err)
	}
	t.Cleanup(func() { s.caller.Close(a.From, held) })
	return func() Outcome {
		got, err := s.caller.Talk(a.From, held)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
}

// Probe makes an attempt over and over that must not be allowed, until stop is
// closed, and says what was wrong.
func (s *Site) Probe(stop <-chan struct{}, from, to, network string, port uint16) string {
	a := Attempt{From: s.Endpoint(from), To: s.Endpoint(to), Network: network, Port: port}
	for n := 1; ; n++ {
		select {
		case <-stop:
			return ""
		default:
		}
		if got, held, err := s.caller.Dial(a); got == Allowed {
			s.caller.Close(a.From, held)
			return fmt.Sprintf("attempt %d: %s was allowed", n, a)
		} else if got == "" {
			return fmt.Sprintf("attempt %d: %s: %v", n, a, err)
		}
	}
}
