package datapathtest

import (
	"errors"
	"net/netip"
	"os"
	"testing"
)

// sockets makes attempts by real processes.
type sockets struct{ t testing.TB }

func (s sockets) Dial(a Attempt) (Outcome, int, error) {
	if a.Network == "icmp" {
		r, err := a.From.process.tell(order{Do: "ping", Address: a.target().Addr().String(), Timeout: a.timeout()})
		if err == nil && r.Error != "" {
			err = errors.New(r.Error)
		}
		return r.Outcome, 0, err
	}
	r, err := a.From.process.tell(order{Do: "dial", Network: a.Network, Address: a.target().String(), Timeout: a.timeout()})
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	return r.Outcome, r.Handle, err
}

func (s sockets) Talk(from *Endpoint, held int) (Outcome, error) {
	r, err := from.process.tell(order{Do: "talk", Handle: held, Timeout: patience})
	return r.Outcome, err
}

func (s sockets) Close(from *Endpoint, held int) {
	if held == 0 {
		return
	}
	from.process.tell(order{Do: "close", Handle: held})
}

func (s sockets) Lookup(from, resolver *Endpoint) (Outcome, error) {
	r, err := from.process.tell(order{Do: "lookup", Network: OutsideName, Address: netip.AddrPortFrom(seenBy(resolver, from, false), 53).String(), Timeout: patience})
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	return r.Outcome, err
}

func (s sockets) Another(e *Endpoint) {
	s.t.Helper()
	if err := os.MkdirAll(e.Cgroup, 0o755); err != nil {
		s.t.Fatal(err)
	}
	e.process = startProcess(s.t, e.Exe, e.NetNS, e.Cgroup)
}
