package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/cilium/ebpf"

	"weft/agent/datapath"
	"weft/agent/datapath/bpf"
	"weft/agent/datapath/nft"
	"weft/lab/netns"
	"weft/model"
	"weft/policy"
	"weft/policy/classify"
)

// weft is a driver in the receiver, which is the whole machine to it.
type weft struct {
	site   *site
	driver datapath.Driver
	rules  []*policy.Rule
	tables [2]*classify.Table // by direction
	state  int                // how many were applied
}

func raiseBPF(s *site) (firewall, error) {
	d, err := bpf.Open(bpf.Config{CgroupRoot: s.cgroup, PinDir: s.pins}, bpf.Deps{})
	if err != nil {
		return nil, err
	}
	return &weft{site: s, driver: d}, nil
}

func raiseNFT(s *site) (firewall, error) {
	return &weft{site: s, driver: nft.New(nft.Config{NetNS: s.receiver})}, nil
}

func policyRule(r rule, id int) *policy.Rule {
	return &policy.Rule{ID: policy.RuleID(id), Tier: model.TierApplication, Policy: "bench", Name: fmt.Sprint("r", id), Action: model.ActionAllow, Stateful: true,
		Peers: []policy.Peer{{Blocks: []policy.Block{{Prefix: netip.PrefixFrom(r.source, 32), IncludeManaged: true}}}},
		Ports: []policy.Port{{Protocol: r.protocol, First: r.port, Last: r.port}}}
}

func (w *weft) replace(rules []rule) (func() error, error) {
	out := make([]*policy.Rule, len(rules))
	for i, r := range rules {
		out[i] = policyRule(r, i+1)
	}
	return func() error { return w.apply(out) }, nil
}

func (w *weft) add(r rule) func() error {
	out := append(slices.Clone(w.rules), policyRule(r, len(w.rules)+1))
	return func() error { return w.apply(out) }
}

// apply does what an agent does with a ruleset that has changed: it makes its
// tables from those of before, and has the driver make them hold.
func (w *weft) apply(rules []*policy.Rule) error {
	w.state++
	r := policy.NewRuleset(model.ModeEnforce, rules, nil, []policy.Default{{Action: model.ActionDeny}}, []policy.Default{{Action: model.ActionAllow}})
	tables := [2]*classify.Table{classify.Update(w.tables[policy.Ingress], &r.Ingress, nil), classify.Update(w.tables[policy.Egress], &r.Egress, nil)}
	s := &datapath.State{Subjects: []datapath.Subject{{Workload: "host", Kind: model.WorkloadHost, Identity: 1, Cgroup: w.site.cgroup,
		Ruleset: &datapath.Ruleset{Key: fmt.Sprint(w.state), Mode: r.Mode, Ingress: tables[policy.Ingress], Egress: tables[policy.Egress]}}}}
	if err := netns.Do(w.site.receiver, func() error { return w.driver.Apply(context.Background(), s) }); err != nil {
		return err
	}
	w.rules, w.tables = rules, tables
	return nil
}

// forget empties the BPF driver's own connection table, as well as the kernel's.
func (w *weft) forget() error {
	if w.driver.Name() != "bpf" {
		return w.site.forget()
	}
	names, err := filepath.Glob(filepath.Join(w.site.pins, "policy-v*", "conns"))
	if err != nil || len(names) != 1 {
		return fmt.Errorf("find the connection table in %s: %q %w", w.site.pins, names, err)
	}
	m, err := ebpf.LoadPinnedMap(names[0], nil)
	if err != nil {
		return fmt.Errorf("open the connection table: %w", err)
	}
	defer m.Close()
	var cursor ebpf.MapBatchCursor
	keys, values := raw(m.KeySize()), raw(m.ValueSize())
	for {
		_, err := m.BatchLookupAndDelete(&cursor, keys, values, nil)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("empty the connection table: %w", err)
		}
	}
}

// raw makes room for a batch of things of which only the size is known.
func raw(size uint32) any {
	const batch = 8192
	return reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(int(size), reflect.TypeFor[byte]())), batch, batch).Interface()
}

func (w *weft) close() error {
	return netns.Do(w.site.receiver, w.driver.Remove)
}
