package datapath

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"weft/policy"
)

// PeerHost is a machine of the fleet, this one included, that tells by a sealed
// option of its TCP connections who calls, or can read it.
type PeerHost struct {
	Number uint32 // never 0, and the same for good
	// Addresses are those at which this machine finds it, or workloads on it.
	Addresses []netip.Addr
	// Identities live there: all that it may speak for.
	Identities []policy.Identity
	// Call seals calls to it; the zero Secret where nothing is to be told there.
	Call Secret
	// Accept are what calls from there may be sealed with, three at most.
	Accept []Secret
}

// Secret seals calls from one machine to another for a time. It is printed nowhere.
type Secret [16]byte

// String hides it, and so does Format, whatever the verb.
func (Secret) String() string { return "hidden" }

// Format implements fmt.Formatter.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Bearer is a workload here whose connections are to say who calls. Subjects
// need not be among them.
type Bearer struct {
	Workload string
	Identity policy.Identity
	Cgroup   string // as a subject's
}

// sort puts a host's lists in their order.
func (h *PeerHost) sort() {
	slices.SortFunc(h.Addresses, netip.Addr.Compare)
	slices.Sort(h.Identities)
}

func (h *PeerHost) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "host %d", h.Number)
	for _, a := range h.Addresses {
		fmt.Fprintf(&b, " at %s", a)
	}
	return b.String() + fmt.Sprintf(" identities %v", h.Identities)
}
