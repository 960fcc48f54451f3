package model

import "fmt"

// Count is a number of packets and the bytes in them. A super-frame (GSO, GRO)
// counts as the packets a wire would have carried; bytes are those of the frame
// as the source's kernel held it, before any slicing.
type Count struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Add returns c + d.
func (c Count) Add(d Count) Count { return Count{c.Packets + d.Packets, c.Bytes + d.Bytes} }

// Ledger is the account of a tap:
//
//	seen = filtered + sampled + deduplicated + shed + ringDropped + pathDropped + delivered + inFlight
//
// inFlight is what has been taken and neither delivered nor lost yet; it is
// zero when the tap is quiet. Each other term is counted where it happens.
type Ledger struct {
	Seen         Count `json:"seen"`
	Filtered     Count `json:"filtered"`
	Sampled      Count `json:"sampled"`
	Deduplicated Count `json:"deduplicated"`
	Shed         Count `json:"shed"`
	RingDropped  Count `json:"ringDropped"`
	PathDropped  Count `json:"pathDropped"`
	Delivered    Count `json:"delivered"`
	InFlight     Count `json:"inFlight"`
}

// Add returns the sum of two accounts.
func (l Ledger) Add(m Ledger) Ledger {
	return Ledger{
		Seen: l.Seen.Add(m.Seen), Filtered: l.Filtered.Add(m.Filtered), Sampled: l.Sampled.Add(m.Sampled),
		Deduplicated: l.Deduplicated.Add(m.Deduplicated), Shed: l.Shed.Add(m.Shed), RingDropped: l.RingDropped.Add(m.RingDropped),
		PathDropped: l.PathDropped.Add(m.PathDropped), Delivered: l.Delivered.Add(m.Delivered), InFlight: l.InFlight.Add(m.InFlight),
	}
}

// Spent is the sum of everything that has become of the packets seen.
func (l Ledger) Spent() Count {
	return l.Filtered.Add(l.Sampled).Add(l.Deduplicated).Add(l.Shed).Add(l.RingDropped).Add(l.PathDropped).Add(l.Delivered)
}

// Check returns an error that shows the difference where the account does not
// balance. A quiet tap must balance with nothing in flight.
func (l Ledger) Check() error {
	if got := l.Spent().Add(l.InFlight); got != l.Seen {
		return fmt.Errorf("ledger does not balance: seen %d packets %d bytes, accounted for %d packets %d bytes",
			l.Seen.Packets, l.Seen.Bytes, got.Packets, got.Bytes)
	}
	return nil
}
