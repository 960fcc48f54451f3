package capture

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"weft/agent/capture/bpf"
	"weft/model"
)

// counts is the account that user space keeps of one line. It lies in a pinned
// array that is mapped here, so it outlives a killed agent as the kernel's own
// counters do. One goroutine at a time writes each word.
//
//	taken      read from the ring
//	shed       taken, and not kept because the buffer was full
//	delivered  } the tool's totals of this epoch, as last heard,
//	failed     } from the base on
//	lost       taken by an agent that was killed, and never acknowledged
//
// What is taken is shed, delivered, failed, lost, or still on its way.
type counts struct{ words *[32]uint64 }

const (
	wordTaken = 2 * iota
	wordShed
	wordDelivered
	wordFailed
	wordLost
	wordBaseDelivered
	wordBaseFailed
	wordEpoch    // and next sequence
	wordInstance // and nothing
)

func (c counts) load(w int) uint64     { return atomic.LoadUint64(&c.words[w]) }
func (c counts) store(w int, v uint64) { atomic.StoreUint64(&c.words[w], v) }

func (c counts) count(w int) model.Count {
	return model.Count{Packets: c.load(w), Bytes: c.load(w + 1)}
}

func (c counts) set(w int, v model.Count) {
	c.store(w, v.Packets)
	c.store(w+1, v.Bytes)
}

func (c counts) add(w int, v model.Count) { c.set(w, c.count(w).Add(v)) }

func (c counts) epoch() uint64            { return c.load(wordEpoch) }
func (c counts) nextSequence() uint64     { return c.load(wordEpoch + 1) }
func (c counts) setNextSequence(v uint64) { c.store(wordEpoch+1, v) }

// reset begins a new line: all zero but its epoch.
func (c counts) reset(epoch uint64) {
	for w := range c.words {
		c.store(w, 0)
	}
	c.store(wordEpoch, epoch)
	c.setNextSequence(1)
}

// sub is a - b in the ring of uint64, so that bases may be "negative".
func sub(a, b model.Count) model.Count {
	return model.Count{Packets: a.Packets - b.Packets, Bytes: a.Bytes - b.Bytes}
}

// below returns a - b, or 0 where b is more.
func below(a, b model.Count) model.Count {
	d := sub(a, b)
	if a.Packets < b.Packets {
		d.Packets = 0
	}
	if a.Bytes < b.Bytes {
		d.Bytes = 0
	}
	return d
}

// outstanding is what was taken and has no fate yet.
func (c counts) outstanding() model.Count {
	fate := c.count(wordShed).Add(c.count(wordDelivered)).Add(c.count(wordFailed)).Add(c.count(wordLost))
	return below(c.count(wordTaken), fate)
}

// heard takes over the tool's totals.
func (c counts) heard(delivered, failed model.Count) {
	c.set(wordDelivered, c.count(wordBaseDelivered).Add(delivered))
	c.set(wordFailed, c.count(wordBaseFailed).Add(failed))
}

// meet begins with a tool's agent: one known already has counted on, for
// another we count on from what we have.
func (c counts) meet(instance uint64, delivered, failed model.Count) {
	if c.load(wordInstance) == instance {
		c.heard(delivered, failed)
		return
	}
	c.store(wordInstance, 0)
	c.set(wordBaseDelivered, sub(c.count(wordDelivered), delivered))
	c.set(wordBaseFailed, sub(c.count(wordFailed), failed))
	c.store(wordInstance, instance)
}

// kernelCounts is struct counts in tap.c.
type kernelCounts struct {
	Filtered, Sampled, Deduplicated, RingDropped, Submitted, Seen model.Count
}

// ledger adds up a line. User space's words are read first: what they hold has
// been seen by the kernel before.
func (s *store) ledger(slot uint32) (model.Ledger, error) {
	c := s.counts(slot)
	l := model.Ledger{
		Shed: c.count(wordShed), Delivered: c.count(wordDelivered),
		PathDropped: c.count(wordFailed).Add(c.count(wordLost)),
	}
	var cpus []kernelCounts
	if err := s.maps["kernel_counts"].Lookup(slot, &cpus); err != nil {
		return l, fmt.Errorf("read the kernel's counters: %w", err)
	}
	for _, k := range cpus {
		l.Filtered, l.Sampled = l.Filtered.Add(k.Filtered), l.Sampled.Add(k.Sampled)
		l.Deduplicated, l.RingDropped = l.Deduplicated.Add(k.Deduplicated), l.RingDropped.Add(k.RingDropped)
		l.Seen = l.Seen.Add(k.Seen)
	}
	l.InFlight = below(l.Seen, l.Spent())
	return l, nil
}

// control is the page that the kernel's side and the journal share.
type control struct {
	mem []byte
}

// sleeping tells the programs whether the reader needs a wake-up.
func (c control) sleeping(yes bool) {
	var v uint32
	if yes {
		v = 1
	}
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&c.mem[0])), v)
}

// The journal makes "taken" and the ring's position move together: it holds what
// was taken before the record at a position, and is void once the ring has
// moved on. After a kill between the two, undo puts the former back and
// the record is read again.
const (
	journalValid = 8 * (iota + 1)
	journalAt
	journalSlot
	journalPackets
	journalBytes
)

func (c control) journal(at uint64, slot uint32, before model.Count) {
	atomic.StoreUint64(word(c.mem, journalValid), 0)
	atomic.StoreUint64(word(c.mem, journalAt), at)
	atomic.StoreUint64(word(c.mem, journalSlot), uint64(slot))
	atomic.StoreUint64(word(c.mem, journalPackets), before.Packets)
	atomic.StoreUint64(word(c.mem, journalBytes), before.Bytes)
	atomic.StoreUint64(word(c.mem, journalValid), 1)
}

func (c control) undo(at uint64, s *store) {
	if atomic.LoadUint64(word(c.mem, journalValid)) != 1 || atomic.LoadUint64(word(c.mem, journalAt)) != at {
		return
	}
	slot := atomic.LoadUint64(word(c.mem, journalSlot))
	if slot < bpf.MaxLines {
		s.counts(uint32(slot)).set(wordTaken, model.Count{
			Packets: atomic.LoadUint64(word(c.mem, journalPackets)), Bytes: atomic.LoadUint64(word(c.mem, journalBytes)),
		})
	}
	atomic.StoreUint64(word(c.mem, journalValid), 0)
}

// mapArray maps a BPF_F_MMAPABLE array.
func mapArray(m *ebpf.Map) ([]byte, error) {
	page := unix.Getpagesize()
	size := (int(m.MaxEntries())*int((m.ValueSize()+7)&^7) + page - 1) / page * page
	mem, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %v: %w", m, err)
	}
	return mem, nil
}
