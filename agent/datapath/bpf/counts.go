package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
)

// tally is the packets of allowed connections in the table, by rule; nil where it
// is not known.
type tally map[uint64]policyCounts

func (t tally) add(c *policyConn) {
	if action(c.Action) != model.ActionAllow {
		return
	}
	sum := t[c.Rule]
	sum.Packets += c.SentPackets + c.ReceivedPackets
	sum.Bytes += c.SentBytes + c.ReceivedBytes
	t[c.Rule] = sum
}

// keepRetired adds what connections had when they left the table; those turned down
// were counted packet by packet. What there is no room for is counted as such: the
// table has to be cleared all the same. The lock for visiting is held.
func (d *Driver) keepRetired(gone tally) error {
	for rule, more := range gone {
		var sum policyCounts
		if err := d.objects.Retired.Lookup(rule, &sum); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read the counts of a rule: %w", err)
		}
		sum.Packets += more.Packets
		sum.Bytes += more.Bytes
		switch err := d.objects.Retired.Put(rule, sum); {
		case errors.Is(err, unix.E2BIG):
			d.unkept.Add(1)
		case err != nil:
			return fmt.Errorf("keep the counts of a rule: %w", err)
		}
		delete(gone, rule)
	}
	return nil
}

// Counts returns what each rule has done: what programs have counted, what has
// left the table and what is in it.
func (d *Driver) Counts() ([]datapath.RuleCount, error) {
	sums := map[uint64]*datapath.RuleCount{}
	of := func(rule uint64) *datapath.RuleCount {
		if sums[rule] == nil {
			sums[rule] = &datapath.RuleCount{Rule: policy.RuleID(rule)}
		}
		return sums[rule]
	}
	var rule uint64
	var perCPU []policyCounts
	it := d.objects.Counts.Iterate()
	for it.Next(&rule, &perCPU) {
		c := of(rule)
		for _, x := range perCPU {
			c.Connections += x.Connections
			c.Packets += x.Packets
			c.Bytes += x.Bytes
		}
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read the counts of rules: %w", err)
	}
	d.visiting.Lock()
	defer d.visiting.Unlock() // no line is retired meanwhile, and so counted twice
	var sum policyCounts
	it = d.objects.Retired.Iterate()
	for it.Next(&rule, &sum) {
		c := of(rule)
		c.Packets += sum.Packets
		c.Bytes += sum.Bytes
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read the counts of rules: %w", err)
	}
	live, err := d.countLive()
	if err != nil {
		return nil, err
	}
	for rule, sum := range live {
		c := of(rule)
		c.Packets += sum.Packets
		c.Bytes += sum.Bytes
	}
	out := make([]datapath.RuleCount, 0, len(sums))
	for _, c := range sums {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b datapath.RuleCount) int { return cmp.Compare(a.Rule, b.Rule) })
	return out, nil
}

// countLive counts what is in the table: what its last reading has found, unless
// that has been told of.
func (d *Driver) countLive() (tally, error) {
	live := d.live
	d.live = nil
	if live != nil {
		return live, nil
	}
	live = tally{}
	_, err := d.lines.through(func(_ *policyConnKey, c *policyConn) bool { live.add(c); return true })
	if err == nil {
		_, err = d.pastLines.through(func(_ *policyPastKey, c *policyConn) bool { live.add(c); return true })
	}
	return live, err
}
