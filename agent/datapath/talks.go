package datapath

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/agent/connection"
	"weft/model"
	"weft/policy"
	"weft/wire/policywire"
	"weft/wire/wirepb"
)

// maxTalks bounds the conversations kept between two reports; those beyond are
// counted as lost.
const maxTalks = 8192

// talks gathers connections that are alike in all that a policy can name.
type talks struct {
	driver     string
	generation uint64
	open       map[talkKey]*wirepb.Conversation
	unsent     []*wirepb.Conversation // of reports nobody has received
	lost       uint64
	rules      map[policy.RuleID]RuleCount
	changed    map[policy.RuleID]bool
	drops      map[string]uint64 // by reason
	more       bool              // of them than was told
	users      connection.Users

	// Connections that begin after seen are new.
	seen, latest time.Time
}

// talkKey holds what makes conversations differ.
type talkKey struct {
	workload  string
	direction policy.Direction
	peer      policy.Identity
	address   netip.Addr // of a peer of no workload
	by        connection.PeerBy
	protocol  uint8
	port      uint16
	exe       string
	uid       uint32
	rule      policy.RuleID
	action    model.Action
	entities  policy.EntitySet
}

func newTalks() talks {
	return talks{generation: uint64(time.Now().UnixNano()), open: map[talkKey]*wirepb.Conversation{}, rules: map[policy.RuleID]RuleCount{}, changed: map[policy.RuleID]bool{}}
}

// begin starts a pass over the table.
func (t *talks) begin(driver string) { t.driver, t.seen = driver, t.latest }

// add counts a connection that has begun since the last pass. staged, unless
// nil, is what would be in force were all staged policies active.
func (t *talks) add(c *connection.Line, staged *Ruleset) {
	if !c.First.After(t.seen) || c.Workload == "" {
		return
	}
	if c.First.After(t.latest) {
		t.latest = c.First
	}
	key := talkKey{workload: c.Workload, direction: c.Direction, peer: c.PeerIdentity, by: c.PeerBy, protocol: c.Protocol, port: c.Port,
		exe: c.Process.Exe, uid: c.Process.UID, rule: c.Rule, action: c.Action, entities: c.PeerEntities}
	peer := c.Remote.Addr()
	if c.Translated.IsValid() {
		peer = c.Translated.Addr()
	}
	if key.peer == 0 {
		key.address = peer
	}
	x := t.open[key]
	if x == nil {
		if len(t.open)+len(t.unsent) >= maxTalks {
			t.lost++
			return
		}
		x = &wirepb.Conversation{Workload: c.Workload, Egress: c.Direction == policy.Egress, Peer: uint32(c.PeerIdentity), PeerAddress: policywire.EncodeAddress(peer),
			PeerBy: c.PeerBy.String(), Protocol: uint32(c.Protocol), Port: uint32(c.Port), Rule: uint64(c.Rule), Action: string(c.Action), FirstUnix: c.First.Unix(),
			Names: c.Names, Process: &wirepb.PolicyProcess{Exe: c.Process.Exe, User: t.users.Name(c.Process)}}
		if names := c.PeerEntities.String(); names != "" {
			x.Entities = strings.Split(names, ",")
		}
		t.open[key] = x
	}
	x.Connections++
	x.LastUnix = max(x.LastUnix, c.First.Unix())
	if staged != nil {
		v := staged.Table(c.Direction).Judge(
			&policy.End{Identity: c.Identity, Process: model.PolicyProcess{Exe: c.Process.Exe, User: x.Process.User}},
			&policy.End{Addr: peer, Identity: c.PeerIdentity, Entities: c.PeerEntities, Names: c.Names}, c.Protocol, c.Port)
		x.StagedAction, x.StagedRule = string(v.Action), 0
		if v.Rule != nil {
			x.StagedRule = uint64(v.Rule.ID)
		}
	}
}

// counts takes over what each rule has done.
func (t *talks) counts(list []RuleCount) {
	for _, c := range list {
		if t.rules[c.Rule] != c {
			t.rules[c.Rule], t.changed[c.Rule] = c, true
		}
	}
}

// dropped takes over what the kernel has thrown away.
func (t *talks) dropped(drops map[string]uint64) {
	if !maps.Equal(t.drops, drops) {
		t.drops, t.more = drops, true
	}
}

// take returns what has gathered, or nil.
func (t *talks) take() *wirepb.PolicyReport {
	if len(t.open)+len(t.unsent)+len(t.changed) == 0 && !t.more {
		return nil
	}
	out := &wirepb.PolicyReport{Driver: t.driver, Generation: t.generation, Lost: t.lost, Conversations: t.unsent}
	for id := range t.changed {
		c := t.rules[id]
		out.Rules = append(out.Rules, &wirepb.RuleCount{Rule: uint64(id), Connections: c.Connections, Packets: c.Packets, Bytes: c.Bytes})
	}
	slices.SortFunc(out.Rules, func(a, b *wirepb.RuleCount) int { return cmp.Compare(a.Rule, b.Rule) })
	for _, reason := range slices.Sorted(maps.Keys(t.drops)) {
		out.Drops = append(out.Drops, &wirepb.DropCount{Reason: reason, Packets: t.drops[reason]})
	}
	for _, x := range t.open {
		out.Conversations = append(out.Conversations, x)
	}
	t.open, t.unsent, t.changed = map[talkKey]*wirepb.Conversation{}, nil, map[policy.RuleID]bool{}
	t.more = false
	return out
}

// restore takes back a report that was not sent. Its conversations are merged by
// the receiver, so that they may stand beside newer ones of the same key.
func (t *talks) restore(r *wirepb.PolicyReport) {
	for _, c := range r.GetRules() {
		t.changed[policy.RuleID(c.Rule)] = true
	}
	t.more = t.more || len(r.GetDrops()) > 0
	for i, x := range r.GetConversations() {
		if len(t.open)+len(t.unsent) >= maxTalks {
			t.lost += uint64(len(r.Conversations) - i)
			return
		}
		t.unsent = append(t.unsent, x)
	}
}
