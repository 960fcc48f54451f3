package flowstore

import (
	"math"
	"net/netip"
	"reflect"
	"strconv"
)

// texts remembers what is written of things that come again and again: of the
// labels of workloads, which are never changed, of addresses and of rules.
type texts struct {
	labels    map[uintptr]string
	addresses map[netip.Addr]string
	rules     map[uint64]string
	places    map[location]string
}

func newTexts() texts {
	return texts{map[uintptr]string{}, map[netip.Addr]string{}, map[uint64]string{}, map[location]string{}}
}

func (t texts) of(labels map[string]string) string {
	if len(labels) == 0 {
		return ""
	}
	at := reflect.ValueOf(labels).Pointer()
	s, ok := t.labels[at]
	if !ok {
		s = labelText(labels)
		t.labels[at] = s
	}
	return s
}

// rule is text, for an id is 64 bits that nothing makes shorter, and few differ.
func (t texts) rule(id uint64) string {
	s, ok := t.rules[id]
	if !ok {
		s = strconv.FormatUint(id, 10)
		t.rules[id] = s
	}
	return s
}

func (t texts) address(a netip.Addr) string {
	s, ok := t.addresses[a]
	if !ok {
		s = a.String()
		t.addresses[a] = s
	}
	return s
}

func (t texts) place(e *End) string {
	x := locationOf(e)
	s, ok := t.places[x]
	if !ok {
		s = x.text()
		t.places[x] = s
	}
	return s
}

// addReport writes a flow as a row.
func addReport(b *block, f *Flow, id uint64, part uint32, t texts) {
	r := b.row()
	put(&r, part)
	put(&r, id)
	at := millis(f.Time)
	put(&r, at)
	last := millis(f.Last)
	idle := at + aheadMost - min(last, at+aheadMost)
	put(&r, idle/1000)
	put(&r, uint16(idle%1000))
	put(&r, last-min(last, millis(f.First)))
	put(&r, truth(f.Counted))

	put(&r, f.Host)
	put(&r, reporterOf(f))
	put(&r, f.Client.Workload)
	put(&r, t.of(f.Client.Labels))
	put(&r, t.address(f.Client.Address))
	put(&r, f.Server.Workload)
	put(&r, t.of(f.Server.Labels))
	put(&r, t.address(f.Server.Address))
	put(&r, f.Server.Port)
	put(&r, f.Protocol)
	put(&r, f.Process)
	put(&r, f.User)
	put(&r, f.Command)
	put(&r, f.Name)
	put(&r, string(f.Action))
	put(&r, t.rule(f.Rule))
	put(&r, f.Application.Protocol)
	put(&r, f.Application.Name)
	put(&r, f.Application.Method)
	put(&r, f.Application.Path)
	put(&r, f.Application.Status)
	put(&r, t.place(&f.Client))
	put(&r, t.place(&f.Server))
	put(&r, f.DropReason)

	put(&r, f.Client.Port)
	put(&r, f.PID)
	put(&r, dialled(f))
	put(&r, f.TCPState)
	put(&r, f.ClientFlags)
	put(&r, f.ServerFlags)
	put(&r, truth(f.New))
	put(&r, truth(f.Ended))
	put(&r, f.Sent.Packets)
	put(&r, f.Sent.Bytes)
	put(&r, f.Received.Packets)
	put(&r, f.Received.Bytes)
	put(&r, uint32(min(f.RTT.Microseconds(), math.MaxUint32)))
	put(&r, f.Retransmits)
	put(&r, f.Drops)
	put(&r, uint32(min(f.Application.Latency.Microseconds(), math.MaxUint32)))
	put(&r, f.Application.ALPN)
	put(&r, f.Application.Software)
}

// Who reports, as the database has it.
const (
	atClient uint8 = iota
	atServer
	observer
)

func reporterOf(f *Flow) uint8 {
	switch {
	case f.Observed:
		return observer
	case f.AtServer:
		return atServer
	}
	return atClient
}

func dialled(f *Flow) string {
	if !f.Dialled.IsValid() {
		return ""
	}
	return f.Dialled.String()
}
