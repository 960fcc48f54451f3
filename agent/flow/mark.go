package flow

import (
	"hash/maphash"
	"net/netip"
	"time"

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

// mark is what a connection's records have said so far.
type mark struct {
	Sent, Received flowwire.Count
	Retransmits    uint32
	Drops          uint32
	Batch          uint64 // that had the last record
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

// glimpse is what is remembered of a mark, so that the mark itself is read only
// where a record is due: a table has a million lines, and most do nothing.
type glimpse struct {
	packets uint32 // both ways and thrown away, the low bits: another number is something new
	told    uint32 // when the last record was, in milliseconds since this process began
	pass    uint32 // in which the line was last seen
}

// marks are those of all connections in the table. What is known by a hash of a
// key is only what can wait: whether a connection had a record, and what that said,
// is in the ledger.
type marks struct {
	ledger  ledger
	account account
	seed    maphash.Seed
	seen    map[uint64]glimpse
	ending  []key // seen to end in this pass
	ended   []key // in the pass before
}

func newMarks(l ledger) (*marks, error) {
	m := &marks{ledger: l, seed: maphash.MakeSeed(), seen: map[uint64]glimpse{}}
	var err error
	if m.account, err = l.number(); err != nil {
		return nil, err
	}
	return m, l.each(func(k *key, x *mark) { m.seen[m.hash(k)] = glimpse{packets: packets(x.Sent, x.Received, x.Drops)} })
}

func (m *marks) hash(k *key) uint64 { return maphash.Comparable(m.seed, *k) }

func packets(sent, received flowwire.Count, drops uint32) uint32 {
	return uint32(sent.Packets+received.Packets) + drops
}

func milliseconds(d time.Duration) uint32 { return uint32(d.Milliseconds()) }

// redo gives the mark a record's figures are added to, unless that has been done.
func (m *marks) redo(r *flowwire.Record, batch uint64) (k key, x mark, needed bool, err error) {
	k = newKey(r.Local, r.Remote, r.Protocol, r.NetNS, r.Began, r.Refused)
	x, known, err := m.ledger.lookup(&k)
	if err != nil || known && x.Batch == batch {
		return k, x, false, err
	}
	if r.New {
		x = mark{}
	}
	x.Sent.Packets += r.Sent.Packets
	x.Sent.Bytes += r.Sent.Bytes
	x.Received.Packets += r.Received.Packets
	x.Received.Bytes += r.Received.Bytes
	x.Retransmits += r.Retransmits
	x.Drops += r.Drops
	m.seen[m.hash(&k)] = glimpse{packets: packets(x.Sent, x.Received, x.Drops)}
	return k, x, true, nil
}

// write keeps the marks of a batch, and then its number.
func (m *marks) write(keys []key, values []mark, batch, lost uint64) error {
	m.account.Number, m.account.Lost = batch, lost
	for i := range values {
		values[i].Batch = batch
	}
	if err := m.ledger.put(keys, values); err != nil {
		return err
	}
	return m.ledger.setNumber(m.account)
}

// sweep forgets the marks of connections that are no longer in the table: those
// that had ended, as a rule.
func (m *marks) sweep(pass uint32) error {
	gone := m.ended[:0]
	for i := range m.ended {
		h := m.hash(&m.ended[i])
		if m.seen[h].pass != pass {
			delete(m.seen, h)
			gone = append(gone, m.ended[i])
		}
	}
	err := m.ledger.drop(gone)
	m.ended, m.ending = m.ending, m.ended[:0]
	if err != nil {
		return err
	}
	vanished := false
	for h, g := range m.seen {
		if g.pass != pass {
			delete(m.seen, h)
			vanished = true
		}
	}
	if !vanished {
		return nil
	}
	return m.drop()
}

// drop forgets the marks of which there is no glimpse.
func (m *marks) drop() error {
	var gone []key
	if err := m.ledger.each(func(k *key, _ *mark) {
		if _, known := m.seen[m.hash(k)]; !known {
			gone = append(gone, *k)
		}
	}); err != nil {
		return err
	}
	return m.ledger.drop(gone)
}
