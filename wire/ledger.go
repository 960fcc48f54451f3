package wire

import (
	"weft/model"
	"weft/wire/wirepb"
)

// LedgerToModel reads an account from the wire; absent counts are zero.
func LedgerToModel(l *wirepb.Ledger) model.Ledger {
	count := func(c *wirepb.Count) model.Count { return model.Count{Packets: c.GetPackets(), Bytes: c.GetBytes()} }
	return model.Ledger{
		Seen: count(l.GetSeen()), Filtered: count(l.GetFiltered()), Sampled: count(l.GetSampled()),
		Deduplicated: count(l.GetDeduplicated()), Shed: count(l.GetShed()), RingDropped: count(l.GetRingDropped()),
		PathDropped: count(l.GetPathDropped()), Delivered: count(l.GetDelivered()), InFlight: count(l.GetInFlight()),
	}
}

// LedgerFromModel writes an account for the wire.
func LedgerFromModel(l model.Ledger) *wirepb.Ledger {
	count := func(c model.Count) *wirepb.Count { return &wirepb.Count{Packets: c.Packets, Bytes: c.Bytes} }
	return &wirepb.Ledger{
		Seen: count(l.Seen), Filtered: count(l.Filtered), Sampled: count(l.Sampled),
		Deduplicated: count(l.Deduplicated), Shed: count(l.Shed), RingDropped: count(l.RingDropped),
		PathDropped: count(l.PathDropped), Delivered: count(l.Delivered), InFlight: count(l.InFlight),
	}
}
