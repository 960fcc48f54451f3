package observe

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/controller/plan"
	"weft/model"
	"weft/policy"
	"weft/wire/policywire"
	"weft/wire/wirepb"
)

// MaxConversations bounds what is remembered; the longest silent go first.
const MaxConversations = 20_000

// Conversation stands for connections of one workload that are alike in all that
// a policy can name. Both ends report: what crosses two subjects is there twice.
type Conversation struct {
	ID string `json:"id" doc:"Stays as long as the conversation is remembered."`
	// Workload is the subject by name, Labels all it had when last heard of.
	Workload  string            `json:"workload"`
	Host      string            `json:"host"`
	Labels    map[string]string `json:"labels,omitempty"`
	Direction string            `json:"direction" enum:"ingress,egress"`
	// Peer is the other end's name where one workload alone can be meant;
	// PeerLabels are set for what is of the fleet, all or the identity labels.
	Peer        string              `json:"peer,omitempty"`
	PeerLabels  map[string]string   `json:"peerLabels,omitempty"`
	PeerAddress string              `json:"peerAddress,omitempty"`
	PeerBy      string              `json:"peerBy,omitempty" doc:"What told who the peer is: address, option, socket, port."`
	Protocol    uint8               `json:"protocol" doc:"The IANA number."`
	Port        uint16              `json:"port" doc:"The destination port, or type<<8|code of ICMP."`
	Process     model.PolicyProcess `json:"process,omitzero"`
	Names       []string            `json:"names,omitempty" doc:"What the subject had looked up to get the address."`
	Entities    []string            `json:"entities,omitempty"`
	Action      model.Action        `json:"action"`
	Rule        string              `json:"rule,omitempty" doc:"The id of the rule that decided; none for the default."`
	// StagedAction is what would be done were all staged policies active; none
	// where that is nothing else.
	StagedAction model.Action `json:"stagedAction,omitempty"`
	StagedRule   string       `json:"stagedRule,omitempty"`
	Connections  uint64       `json:"connections"`
	First        time.Time    `json:"first"`
	Last         time.Time    `json:"last"`
}

// PolicyDirection returns the direction as the policy room knows it.
func (c *Conversation) PolicyDirection() policy.Direction {
	if c.Direction == policy.Egress.String() {
		return policy.Egress
	}
	return policy.Ingress
}

// key tells conversations apart. Addresses of the world that came from one
// looked-up name are one peer.
func (c *Conversation) key() string {
	peer := c.Peer
	switch {
	case peer != "":
	case c.PeerLabels != nil:
		peer = fmt.Sprint(c.PeerLabels)
	case len(c.Names) > 0:
		peer = "name " + c.Names[0]
	default:
		peer = c.PeerAddress
	}
	h := fnv.New128a()
	fmt.Fprintf(h, "%q", []string{c.Workload, c.Direction, peer, fmt.Sprint(c.Protocol, c.Port), c.Process.Exe, c.Process.User, c.Process.Cgroup,
		string(c.Action), c.Rule, string(c.StagedAction), c.StagedRule, strings.Join(c.Entities, ",")})
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

// clip bounds a text of an agent.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxText)], "") }

func clipAll(list []string, most int) []string {
	var out []string
	for _, s := range list[:min(len(list), most)] {
		out = append(out, clip(s))
	}
	return out
}

// read makes a conversation of what an agent reports; nil where it makes no
// sense. The lock is held.
func (o *Observer) read(hostUID string, m *wirepb.Conversation) *Conversation {
	w := o.who().byUID[plan.WorkloadUID(hostUID, m.Workload)]
	if w == nil || m.Protocol > 255 || m.Port > 65535 {
		return nil // gone meanwhile, or of a newer protocol
	}
	c := &Conversation{Workload: w.Metadata.Name, Host: w.Spec.Host, Labels: w.Metadata.Labels, Direction: policy.Ingress.String(),
		PeerBy: clip(m.PeerBy), Protocol: uint8(m.Protocol), Port: uint16(m.Port), Names: clipAll(m.Names, 8), Entities: clipAll(m.Entities, len(model.Entities)),
		Process: model.PolicyProcess{Exe: clip(m.Process.GetExe()), User: clip(m.Process.GetUser()), Cgroup: clip(m.Process.GetCgroup())},
		Action:  model.Action(clip(m.Action)), StagedAction: model.Action(clip(m.StagedAction)), Connections: m.Connections,
		First: time.Unix(m.FirstUnix, 0).UTC(), Last: time.Unix(m.LastUnix, 0).UTC()}
	if m.Egress {
		c.Direction = policy.Egress.String()
	}
	if m.Rule != 0 {
		c.Rule = policy.RuleID(m.Rule).String()
	}
	if m.StagedRule != 0 {
		c.StagedRule = policy.RuleID(m.StagedRule).String()
	}
	addr, err := policywire.DecodeAddress(m.PeerAddress)
	if err == nil {
		c.PeerAddress = addr.String()
	}
	o.readPeer(c, policy.Identity(m.Peer), addr)
	c.ID = c.key()
	return c
}

// readPeer names the other end. An identity that the agent was told by a packet
// or a socket goes over what the address says: behind one address there may be
// several workloads.
func (o *Observer) readPeer(c *Conversation, id policy.Identity, addr netip.Addr) {
	var at *model.Workload
	if addr.IsValid() {
		at = o.who().addresses.Find(c.Host, addr)
	}
	if id == 0 {
		if at != nil {
			c.Peer, c.PeerLabels = at.Metadata.Name, at.Metadata.Labels
		}
		return
	}
	if o.plan == nil || o.plan.Labels(id) == nil {
		if at != nil { // an identity of a moment ago
			c.Peer, c.PeerLabels = at.Metadata.Name, at.Metadata.Labels
		}
		return
	}
	c.PeerLabels = o.plan.Labels(id)
	if at == nil {
		return
	}
	var found []*model.Workload
	for _, w := range o.who().byHost[at.Spec.Host] {
		if o.plan.Identity(w.Metadata.Name) == id {
			found = append(found, w)
		}
	}
	switch {
	case o.plan.Identity(at.Metadata.Name) == id:
		c.Peer, c.PeerLabels = at.Metadata.Name, at.Metadata.Labels
	case len(found) == 1:
		c.Peer, c.PeerLabels = found[0].Metadata.Name, found[0].Metadata.Labels
	}
}

// conversations is the bounded store.
type conversations struct {
	byID    map[string]*Conversation
	labels  map[string]map[string]string // each set once, by its text
	Evicted uint64
}

func newConversations() *conversations {
	return &conversations{byID: map[string]*Conversation{}, labels: map[string]map[string]string{}}
}

func (s *conversations) intern(labels map[string]string) map[string]string {
	if labels == nil {
		return nil
	}
	text := fmt.Sprint(labels) // sorted by key
	if have, ok := s.labels[text]; ok {
		return have
	}
	s.labels[text] = labels
	return labels
}

// add takes an increment.
func (s *conversations) add(c *Conversation) {
	c.Labels, c.PeerLabels = s.intern(c.Labels), s.intern(c.PeerLabels)
	old := s.byID[c.ID]
	if old == nil {
		if len(s.byID) >= MaxConversations {
			s.evict()
		}
		s.byID[c.ID] = c
		return
	}
	c.Connections += old.Connections
	if old.First.Before(c.First) {
		c.First = old.First
	}
	if old.Last.After(c.Last) {
		c.Last = old.Last
	}
	if len(c.Names) == 0 {
		c.Names = old.Names
	}
	s.byID[c.ID] = c // a copy each time, so that readers keep theirs
}

// evict makes room for a twentieth.
func (s *conversations) evict() {
	list := s.sorted()
	for _, c := range list[len(list)-len(list)/20-1:] {
		delete(s.byID, c.ID)
		s.Evicted++
	}
	clear(s.labels)
	for id, c := range s.byID {
		d := *c
		d.Labels, d.PeerLabels = s.intern(c.Labels), s.intern(c.PeerLabels)
		s.byID[id] = &d
	}
}

// sorted lists them, the last heard of first.
func (s *conversations) sorted() []*Conversation {
	list := make([]*Conversation, 0, len(s.byID))
	for _, c := range s.byID {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *Conversation) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.ID, b.ID))
	})
	return list
}
