package datapath

import (
	"context"

	"errors"
	"weft/agent/connection"
)

// ErrPartly is what an error of Apply is where a driver cannot judge some of the
// subjects, and all else is in force.
var ErrPartly = errors.New("some subjects are not judged")

// Driver puts a State into force. README.md says what each must hold to, and
// datapathtest tries it.
//
// A driver is used by one goroutine at a time, but for Connections, Forget and
// Counts, which may be called at any time.
type Driver interface {
	// Name is bpf, nft or fake.
	Name() string
	// Apply makes the whole state hold. What holds already is left alone, also
	// across restarts of the program. Where it fails, the last state applied
	// holds for every subject on which the new one does not; an error that is
	// ErrPartly says that the new one holds for all but the subjects it names.
	Apply(ctx context.Context, s *State) error
	// Adopt takes over connections that another driver has tracked, before the
	// first Apply of the state: what answers them must pass, and a change that
	// denies them must reach them, as if they had begun here.
	Adopt(s *State, connections []connection.Line) error
	// Connections visits the connection table, connections turned down lately
	// included, until visit returns false. What it is handed is its own only
	// until it returns.
	Connections(visit func(*connection.Line) bool) error
	// Forget takes out of the table what the last whole visit has shown as ended,
	// unless it goes on: whoever keeps it has done so.
	Forget() error
	// Counts returns what each rule has done.
	Counts() ([]RuleCount, error)
	// Verify compares what is in the kernel with what the last Apply put there,
	// repairs it and says what it found, a line for each thing; deep looks at all
	// of it, and may take a while. Nothing is found before the first Apply.
	Verify(deep bool) ([]string, error)
	// Troubles counts what could not be done as it should, by what it means in
	// words for a person, since the driver's state was made.
	Troubles() (map[string]uint64, error)
	// Close lets go of the kernel's objects and leaves them at work.
	Close() error
	// Remove takes away all that the driver made, and nothing else.
	Remove() error
}

// Filler is a driver whose connection table has an end.
type Filler interface {
	// Filling says that the last reading left the table half full or more.
	Filling() bool
}

// Dropper is a driver that knows what the kernel throws away.
type Dropper interface {
	// Drops counts packets by the kernel's name for the reason, since the driver's
	// state was made; nil where the kernel does not say.
	Drops() (map[string]uint64, error)
}

// Witness is a driver that believes some callers what they say of themselves.
type Witness interface {
	// Disbelieved counts as Troubles does: proofs of who calls that are not good,
	// and those of hosts that are not known here. The address has decided.
	Disbelieved() (forged, unknown map[string]uint64, err error)
}
