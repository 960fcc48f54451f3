package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"unsafe"

	"weft/agent/datapath"
)

// options is what the maps of option.h should hold: who says what of itself, to
// whom, and who is believed.
type options struct {
	badges    map[uint64]uint32 // by id of a cgroup
	callees   map[policyCalleeKey]policyCallee
	callers   map[uint32]policyCaller
	residents map[policyResident]uint32
}

// newOptions reads a state; badges of subjects come with their places.
func newOptions(s *datapath.State) (*options, error) {
	o := &options{badges: map[uint64]uint32{}, callees: map[policyCalleeKey]policyCallee{}, callers: map[uint32]policyCaller{}, residents: map[policyResident]uint32{}}
	for i := range s.Bearers {
		c, err := findCgroup(s.Bearers[i].Cgroup)
		if err == nil {
			o.badges[c.id] = uint32(s.Bearers[i].Identity)
		} else if !errors.Is(err, fs.ErrNotExist) { // one that has just ended is nobody
			return nil, err
		}
	}
	for i := range s.Hosts {
		h := &s.Hosts[i]
		for _, id := range h.Identities {
			o.residents[policyResident{Host: h.Number, Identity: uint32(id)}] = 1
		}
		if len(h.Accept) > 0 {
			var c policyCaller
			for k := range c.Secrets { // none is left zero, for anybody knows that one
				c.Secrets[k] = words(h.Accept[min(k, len(h.Accept)-1)])
			}
			o.callers[h.Number] = c
		}
		if s.Host == 0 || h.Call == (datapath.Secret{}) {
			continue
		}
		for _, a := range h.Addresses {
			family, raw := addressBytes(a)
			o.callees[policyCalleeKey{Address: raw, Family: uint32(family)}] = policyCallee{Secret: words(h.Call), Host: s.Host}
		}
	}
	return o, nil
}

// words are the bytes of a secret as they lie in memory.
func words(s datapath.Secret) [2]uint64 { return *(*[2]uint64)(unsafe.Pointer(&s)) }

// optionMaps are the kernel's.
type optionMaps struct {
	badges    *mirror[uint64, uint32]
	callees   *mirror[policyCalleeKey, policyCallee]
	callers   *mirror[uint32, policyCaller]
	residents *mirror[policyResident, uint32]
}

func readOptionMaps(o *policyObjects) (m optionMaps, err error) {
	err = firstError(
		func() error { m.badges, err = newMirror[uint64, uint32](o.Badges); return err },
		func() error { m.callees, err = newMirror[policyCalleeKey, policyCallee](o.Callees); return err },
		func() error { m.callers, err = newMirror[uint32, policyCaller](o.Callers); return err },
		func() error { m.residents, err = newMirror[policyResident, uint32](o.Residents); return err },
	)
	return m, err
}

// put writes what is new: who is believed first, so that what is said can be.
func (m *optionMaps) put(want *options) error {
	return firstError(
		func() error { return m.residents.put(want.residents) },
		func() error { return m.callers.put(want.callers) },
		func() error { return m.badges.put(want.badges) },
		func() error { return m.callees.put(want.callees) },
	)
}

// drop deletes what is old. Nobody says any more what is not believed.
func (m *optionMaps) drop(want *options) error {
	return firstError(
		func() error { return m.callees.drop(want.callees) },
		func() error { return m.badges.drop(want.badges) },
		func() error { return m.callers.drop(want.callers) },
		func() error { return m.residents.drop(want.residents) },
	)
}

// OptionCounts is what became of options since the driver's state was made.
type OptionCounts struct {
	Written, Accepted uint64
	NoRoom            uint64 // left out: a SYN with too many other options
	// These were not believed, and the peer's address decided.
	UnknownHost, WrongTag, NotResident, Replayed uint64
}

// OptionCounts adds up what the CPUs have counted.
func (d *Driver) OptionCounts() (out OptionCounts, err error) {
	var perCPU []policyOptionCounts
	if err := d.objects.Options.Lookup(uint32(0), &perCPU); err != nil {
		return out, fmt.Errorf("read what became of options: %w", err)
	}
	for _, c := range perCPU {
		out.Written += c.Written
		out.Accepted += c.Accepted
		out.NoRoom += c.NoRoom
		out.UnknownHost += c.UnknownHost
		out.WrongTag += c.WrongTag
		out.NotResident += c.NotResident
		out.Replayed += c.Replayed
	}
	return out, nil
}

// Disbelieved implements datapath.Witness.
func (d *Driver) Disbelieved() (forged, unknown map[string]uint64, err error) {
	c, err := d.OptionCounts()
	if err != nil {
		return nil, nil, err
	}
	forged, unknown = map[string]uint64{}, map[string]uint64{}
	for _, k := range []struct {
		in   map[string]uint64
		n    uint64
		what string
	}{
		{forged, c.WrongTag, "calls under a forged proof of who calls, or whose sequence numbers something on the way changes: the address decided"},
		{forged, c.Replayed, "calls under a proof that another connection has used: the address decided"},
		{forged, c.NotResident, "calls from a host in the name of a workload that is not there, or is no more: the address decided"},
		{unknown, c.UnknownHost, "calls under the proof of a host that this one has not been told of: the address decided"},
	} {
		if k.n > 0 {
			k.in[k.what] = k.n
		}
	}
	return forged, unknown, nil
}
