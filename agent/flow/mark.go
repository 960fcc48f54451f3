package flow

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"

	"weft/agent/connection"
	"weft/wire/flowwire"
)

// key names a connection, as it lies in the kernel's map.
type key struct {
	Local, Remote         [16]byte // IPv4 as IPv4-mapped IPv6
	NetNS                 uint64
	Began                 uint64 // 0: not known
	LocalPort, RemotePort uint16
	Protocol              uint8
	Refused               uint8
	_                     [2]byte
}

func keyOf(c *connection.Line) key {
	return newKey(c.Local, c.Remote, c.Protocol, c.NetNS, c.Began, c.Refused)
}

func newKey(local, remote netip.AddrPort, protocol uint8, netns, began uint64, refused bool) key {
	k := key{Local: local.Addr().As16(), Remote: remote.Addr().As16(), NetNS: netns, Began: began, LocalPort: local.Port(), RemotePort: remote.Port(), Protocol: protocol}
	if refused {
		k.Refused = 1
	}
	return k
}

// kept is what lasts of a mark.
type kept struct {
	Sent, Received flowwire.Count
	Retransmits    uint32
	_              [4]byte
	Batch          uint64 // that had the last record
}

// mark is what a connection's records have said so far.
type mark struct {
	Sent, Received flowwire.Count
	Retransmits    uint32
	pass           uint32        // in which it was last seen
	batch          uint64        // that had the last record
	told           time.Duration // when that was, since this process began; 0 where an earlier one did
}

// continues says whether a line is the connection of the mark: it may not be where
// it is not known when it began.
func (m *mark) continues(c *connection.Line) bool {
	return c.Sent.Packets >= m.Sent.Packets && c.Received.Packets >= m.Received.Packets
}

// account is how far an agent's batches are.
type account struct {
	Epoch, Number uint64
	Lost          uint64 // records, of this epoch
}

// marks are those of all connections in the table, and a copy in the kernel of
// what records have said, which outlives this process.
type marks struct {
	all     map[key]mark
	account account

	table, number *ebpf.Map // nil where they are not kept
}

func openMarks(pinDir string, room uint32) (*marks, error) {
	m := &marks{all: map[key]mark{}}
	if pinDir == "" {
		return m, nil
	}
	if err := os.MkdirAll(pinDir, 0o700); err != nil {
		return nil, fmt.Errorf("make a directory for the marks of flows: %w; is a BPF file system mounted there? (mount -t bpf bpf /sys/fs/bpf)", err)
	}
	var err error
	pinned := ebpf.MapOptions{PinPath: pinDir}
	m.table, err = ebpf.NewMapWithOptions(&ebpf.MapSpec{Name: "marks_v2", Type: ebpf.Hash, KeySize: 56, ValueSize: 48, MaxEntries: room, Flags: noPreallocate, Pinning: ebpf.PinByName}, pinned)
	if err == nil {
		m.number, err = ebpf.NewMapWithOptions(&ebpf.MapSpec{Name: "account_v1", Type: ebpf.Array, KeySize: 4, ValueSize: 24, MaxEntries: 1, Pinning: ebpf.PinByName}, pinned)
	}
	if err == nil {
		err = m.load()
	}
	if err != nil {
		m.close()
		return nil, fmt.Errorf("open the marks of flows in %s: %w", filepath.Clean(pinDir), err)
	}
	return m, nil
}

const noPreallocate = 1 // BPF_F_NO_PREALLOC

func (m *marks) load() error {
	if err := m.number.Lookup(uint32(0), &m.account); err != nil {
		return err
	}
	var cursor ebpf.MapBatchCursor
	keys, values := make([]key, 4096), make([]kept, 4096)
	for {
		n, err := m.table.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		for i, v := range values[:n] {
			m.all[keys[i]] = mark{Sent: v.Sent, Received: v.Received, Retransmits: v.Retransmits, batch: v.Batch}
		}
		if err != nil {
			return nil
		}
	}
}

// redo adds a record to its mark, unless that has been done.
func (m *marks) redo(r *flowwire.Record, batch uint64) (key, bool) {
	k := newKey(r.Local, r.Remote, r.Protocol, r.NetNS, r.Began, r.Refused)
	x, known := m.all[k]
	if known && x.batch == batch {
		return k, false
	}
	if r.New || !known {
		x = mark{}
	}
	x.Sent.Packets += r.Sent.Packets
	x.Sent.Bytes += r.Sent.Bytes
	x.Received.Packets += r.Received.Packets
	x.Received.Bytes += r.Received.Bytes
	x.Retransmits += r.Retransmits
	m.all[k] = x
	return k, true
}

// write keeps the marks of a batch, and then its number.
func (m *marks) write(touched []key, batch, lost uint64) error {
	m.account.Number, m.account.Lost = batch, lost
	values := make([]kept, len(touched))
	for i, k := range touched {
		x := m.all[k]
		x.batch = batch
		m.all[k] = x
		values[i] = kept{Sent: x.Sent, Received: x.Received, Retransmits: x.Retransmits, Batch: batch}
	}
	if m.table == nil {
		return nil
	}
	if len(touched) > 0 {
		if _, err := m.table.BatchUpdate(touched, values, nil); err != nil {
			return fmt.Errorf("keep the marks of flows: %w", err)
		}
	}
	if err := m.number.Put(uint32(0), m.account); err != nil {
		return fmt.Errorf("keep the number of a batch of flows: %w", err)
	}
	return nil
}

// sweep forgets the marks of connections that are no longer in the table.
func (m *marks) sweep(pass uint32) error {
	var gone []key
	for k, x := range m.all {
		if x.pass != pass {
			gone = append(gone, k)
			delete(m.all, k)
		}
	}
	if m.table == nil {
		return nil
	}
	for len(gone) > 0 {
		n, err := m.table.BatchDelete(gone, nil)
		if errors.Is(err, ebpf.ErrKeyNotExist) { // one that was never written
			n, err = n+1, nil
		}
		if err != nil {
			return fmt.Errorf("forget the marks of flows: %w", err)
		}
		gone = gone[n:]
	}
	return nil
}

func (m *marks) close() error {
	if m.table == nil {
		return nil
	}
	return errors.Join(m.table.Close(), m.number.Close())
}
