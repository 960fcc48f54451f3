// Package policywire turns compiled policy into messages of the agent protocol
// and back.
package policywire

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"weft/model"
	"weft/policy"
	"weft/wire/wirepb"
)

// Encode writes a ruleset. Its key is the digest of all the rest, so that equal
// rulesets have one key.
func Encode(r *policy.Ruleset) *wirepb.Ruleset {
	out := &wirepb.Ruleset{Mode: string(r.Mode), Ingress: encodeTable(&r.Ingress), Egress: encodeTable(&r.Egress)}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(out)
	if err != nil {
		panic(fmt.Sprintf("encode a ruleset: %v", err)) // only what Validate let through
	}
	sum := sha256.Sum256(raw)
	out.Key = hex.EncodeToString(sum[:16])
	return out
}

func encodeTable(t *policy.Table) *wirepb.PolicyTable {
	out := &wirepb.PolicyTable{}
	for _, r := range t.Rules {
		out.Rules = append(out.Rules, encodeRule(r))
	}
	for _, d := range t.Defaults {
		out.Defaults = append(out.Defaults, &wirepb.PolicyDefault{Processes: EncodeProcesses(d.Processes), Action: string(d.Action)})
	}
	return out
}

func encodeRule(r *policy.Rule) *wirepb.PolicyRule {
	out := &wirepb.PolicyRule{Id: uint64(r.ID), Tier: string(r.Tier), Policy: r.Policy, Name: r.Name, Action: string(r.Action),
		Stateless: !r.Stateful, Processes: EncodeProcesses(r.Processes)}
	for _, p := range r.Peers {
		out.Peers = append(out.Peers, encodePeer(&p))
	}
	for _, p := range r.Ports {
		out.Ports = append(out.Ports, &wirepb.PolicyPort{Protocol: uint32(p.Protocol), First: uint32(p.First), Last: uint32(p.Last)})
	}
	return out
}

func encodePeer(p *policy.Peer) *wirepb.PolicyPeer {
	out := &wirepb.PolicyPeer{Names: p.Names, Processes: EncodeProcesses(p.Processes)}
	if p.Selector != nil {
		out.Selector = p.Selector.String()
	}
	for i, e := range model.Entities {
		if p.Entities&(1<<i) != 0 {
			out.Entities = append(out.Entities, string(e))
		}
	}
	for _, b := range p.Blocks {
		block := &wirepb.PolicyBlock{Prefix: b.Prefix.String(), IncludeManaged: b.IncludeManaged}
		for _, x := range b.Except {
			block.Except = append(block.Except, x.String())
		}
		out.Blocks = append(out.Blocks, block)
	}
	return out
}

// EncodeProcesses writes conditions on processes.
func EncodeProcesses(list []model.PolicyProcess) []*wirepb.PolicyProcess {
	var out []*wirepb.PolicyProcess
	for _, p := range list {
		out = append(out, &wirepb.PolicyProcess{Exe: p.Exe, User: p.User, Cgroup: p.Cgroup})
	}
	return out
}

// Decode reads a ruleset. It refuses what it does not understand whole: a rule
// that means less, or more, than the controller meant is worse than none.
func Decode(m *wirepb.Ruleset) (*policy.Ruleset, error) {
	mode := model.Mode(m.GetMode())
	if !slices.Contains([]model.Mode{model.ModeObserve, model.ModeSelective, model.ModeEnforce}, mode) {
		return nil, fmt.Errorf("read ruleset %s: mode %q is not known", m.GetKey(), m.GetMode())
	}
	in, inDefaults, err := decodeTable(m.GetIngress())
	if err != nil {
		return nil, fmt.Errorf("read ruleset %s: ingress: %w", m.GetKey(), err)
	}
	out, outDefaults, err := decodeTable(m.GetEgress())
	if err != nil {
		return nil, fmt.Errorf("read ruleset %s: egress: %w", m.GetKey(), err)
	}
	return policy.NewRuleset(mode, in, out, inDefaults, outDefaults), nil
}

func decodeTable(m *wirepb.PolicyTable) ([]*policy.Rule, []policy.Default, error) {
	if m == nil {
		return nil, nil, errors.New("the table is missing")
	}
	var rules []*policy.Rule
	for i, r := range m.Rules {
		rule, err := decodeRule(r)
		if err != nil {
			return nil, nil, fmt.Errorf("rule %d (%s/%s): %w", i, r.GetPolicy(), r.GetName(), err)
		}
		rules = append(rules, rule)
	}
	var defaults []policy.Default
	for _, d := range m.Defaults {
		processes, err := decodeProcesses(d.GetProcesses())
		if err != nil {
			return nil, nil, err
		}
		action := model.Action(d.GetAction())
		if action != model.ActionAllow && action != model.ActionDeny {
			return nil, nil, fmt.Errorf("default action %q is not known", d.GetAction())
		}
		defaults = append(defaults, policy.Default{Processes: processes, Action: action})
	}
	if n := len(defaults); n == 0 || len(defaults[n-1].Processes) > 0 {
		return nil, nil, errors.New("the last default must be without condition")
	}
	return rules, defaults, nil
}

var actions = []model.Action{model.ActionAllow, model.ActionDeny, model.ActionReject, model.ActionPass, model.ActionLog}

func decodeRule(m *wirepb.PolicyRule) (*policy.Rule, error) {
	out := &policy.Rule{ID: policy.RuleID(m.GetId()), Tier: model.Tier(m.GetTier()), Policy: m.GetPolicy(), Name: m.GetName(),
		Action: model.Action(m.GetAction()), Stateful: !m.GetStateless()}
	if out.ID == 0 {
		return nil, errors.New("the id is missing")
	}
	if !slices.Contains(actions, out.Action) {
		return nil, fmt.Errorf("action %q is not known", m.GetAction())
	}
	if out.Tier != model.TierFailsafe && !slices.Contains(model.Tiers, out.Tier) {
		return nil, fmt.Errorf("tier %q is not known", m.GetTier())
	}
	var err error
	if out.Processes, err = decodeProcesses(m.GetProcesses()); err != nil {
		return nil, err
	}
	for _, p := range m.GetPeers() {
		peer, err := decodePeer(p)
		if err != nil {
			return nil, err
		}
		out.Peers = append(out.Peers, peer)
	}
	for _, p := range m.GetPorts() {
		if p.GetProtocol() > 255 || p.GetLast() > 65535 || p.GetFirst() > p.GetLast() {
			return nil, fmt.Errorf("ports %d-%d of protocol %d make no range", p.GetFirst(), p.GetLast(), p.GetProtocol())
		}
		out.Ports = append(out.Ports, policy.Port{Protocol: uint8(p.Protocol), First: uint16(p.First), Last: uint16(p.Last)})
	}
	return out, nil
}

func decodePeer(m *wirepb.PolicyPeer) (policy.Peer, error) {
	out := policy.Peer{Names: m.GetNames()}
	given := 0
	if m.GetSelector() != "" {
		s, err := model.ParseSelector(m.GetSelector())
		if err != nil {
			return out, err
		}
		out.Selector = &s
		given++
	}
	for _, text := range m.GetEntities() {
		bit := policy.EntityBit(model.Entity(text))
		if bit == 0 {
			return out, fmt.Errorf("entity %q is not known", text)
		}
		out.Entities |= bit
	}
	for _, b := range m.GetBlocks() {
		block, err := decodeBlock(b)
		if err != nil {
			return out, err
		}
		out.Blocks = append(out.Blocks, block)
	}
	for _, is := range []bool{out.Entities != 0, len(out.Blocks) > 0, len(out.Names) > 0} {
		if is {
			given++
		}
	}
	if given != 1 {
		return out, fmt.Errorf("a peer names %d of selector, entities, blocks and names; it must name one", given)
	}
	var err error
	out.Processes, err = decodeProcesses(m.GetProcesses())
	return out, err
}

func decodeBlock(m *wirepb.PolicyBlock) (policy.Block, error) {
	prefix, err := model.ParseCIDR(m.GetPrefix())
	if err != nil {
		return policy.Block{}, err
	}
	out := policy.Block{Prefix: prefix, IncludeManaged: m.GetIncludeManaged()}
	for _, text := range m.GetExcept() {
		x, err := model.ParseCIDR(text)
		if err != nil {
			return out, err
		}
		out.Except = append(out.Except, x)
	}
	return out, nil
}

func decodeProcesses(list []*wirepb.PolicyProcess) ([]model.PolicyProcess, error) {
	var out []model.PolicyProcess
	for _, p := range list {
		v := model.PolicyProcess{Exe: p.GetExe(), User: p.GetUser(), Cgroup: p.GetCgroup()}
		if v == (model.PolicyProcess{}) {
			return nil, errors.New("a condition on processes names none")
		}
		out = append(out, v)
	}
	return out, nil
}

// EncodeAddress writes an address; IPv4-mapped ones are written as IPv4.
func EncodeAddress(a netip.Addr) []byte { return a.Unmap().AsSlice() }

// DecodeAddress reads one.
func DecodeAddress(raw []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(raw)
	if !ok {
		return a, fmt.Errorf("an address has %d bytes; 4 or 16 are right", len(raw))
	}
	return a.Unmap(), nil
}
