package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"net/netip"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"

	"weft/model"
	"weft/policy"
	"weft/wire/policywire"
	"weft/wire/wirepb"
)

// Machines tell one another who calls, so that workloads behind one address are
// told apart. Two are peers where a selector of one's rules has a workload of the
// other: that somebody is of the fleet, the address of its machine says too. What
// is said of a peer is the same for all, and made once.

// HostNumber names a host in a packet. It follows from the UID, which the
// controller draws; hosts of which two have one number take no part.
func HostNumber(uid string) uint32 {
	sum := sha256.Sum256([]byte("weft host number\x00" + uid))
	return binary.BigEndian.Uint32(sum[:])
}

// peer is what others are told of a host. It is never changed.
type peer struct {
	number     uint32
	identities *roaring.Bitmap
	wire       *wirepb.PeerHost
	digest     [32]byte
}

// peerList is whom a host is told of, by number. Hosts that are told the same,
// of which there are many and few kinds, share one. It is never changed.
type peerList struct {
	peers  []*peer
	wire   []*wirepb.PeerHost
	digest [32]byte
}

// caller is a host's part in this.
type caller struct {
	index  uint32
	number uint32 // 0 where it takes no part
	key    []byte
	self   *peer // nil where it takes no part
	asks   *asks
	told   *peerList // nil where it is told of nobody
}

// asks is a set of selectors of peers. Hosts whose rules have the same set ask
// about the same peers, whatever else the rules say.
type asks struct {
	key       string
	texts     []string
	selectors []model.Selector
	hosts     *roaring.Bitmap // whose rules have it, by index
	wanted    *roaring.Bitmap // identities; nil where it is to be found out
	// match are the hosts, by index, on which somebody lives that is asked about,
	// and whose address does not tell who calls.
	match *roaring.Bitmap
}

// callers is who tells whom who calls.
type callers struct {
	byIndex map[uint32]*hostPart
	last    uint32
	asks    map[string]*asks
	lists   map[[32]byte]*peerList
	touched map[*hostPart]bool // may be another peer
	paired  bool               // false where other hosts may be peers
}

func newCallers() callers {
	return callers{byIndex: map[uint32]*hostPart{}, asks: map[string]*asks{}, touched: map[*hostPart]bool{}}
}

// touch has hosts looked at again; o may be nil.
func (c *callers) touch(h, o *hostPart) {
	c.touched[h] = true
	if o != nil {
		c.touched[o] = true
	}
}

func (c *callers) adopt(h *hostPart) {
	c.last++
	h.caller.index = c.last
	c.byIndex[c.last] = h
}

func (c *callers) forget(h *hostPart) {
	c.ask(h, nil)
	for _, a := range c.asks {
		a.match.Remove(h.caller.index)
	}
	delete(c.byIndex, h.caller.index)
	delete(c.touched, h)
	c.paired = false
}

// name gives hosts their numbers and keys.
func (c *callers) name(parts map[string]*hostPart, hosts []*model.Host, keys map[string][]byte) {
	numbers, taken := map[string]uint32{}, map[uint32]int{}
	for _, h := range hosts {
		if name := h.Metadata.Name; parts[name] != nil && len(keys[name]) > 0 {
			numbers[name] = HostNumber(h.Metadata.UID)
			taken[numbers[name]]++
		}
	}
	for name, h := range parts {
		n := numbers[name]
		if taken[n] > 1 {
			n = 0
		}
		if x := &h.caller; x.number != n || n != 0 && !slices.Equal(x.key, keys[name]) {
			x.number, x.key = n, keys[name]
			c.touched[h] = true
		}
	}
}

// asksOf returns the set of what rulesets ask about, nil where that is nothing.
func (c *callers) asksOf(rulesets map[string]*ruleset) *asks {
	byText := map[string]model.Selector{}
	for _, r := range rulesets {
		for i, text := range r.texts {
			byText[text] = r.selectors[i]
		}
	}
	if len(byText) == 0 {
		return nil
	}
	a := &asks{hosts: roaring.New(), match: roaring.New()}
	for text := range byText {
		a.texts = append(a.texts, text)
	}
	slices.Sort(a.texts)
	a.key = strings.Join(a.texts, "\x00")
	if known := c.asks[a.key]; known != nil {
		return known
	}
	for _, text := range a.texts {
		a.selectors = append(a.selectors, byText[text])
	}
	return a
}

// ask notes what a host's rules ask about. Sets that nobody asks about go.
func (c *callers) ask(h *hostPart, a *asks) {
	before := h.caller.asks
	if before == a {
		return
	}
	if h.caller.asks = a; a != nil {
		c.asks[a.key] = a
		a.hosts.Add(h.caller.index)
	}
	if before != nil {
		if before.hosts.Remove(h.caller.index); before.hosts.IsEmpty() {
			delete(c.asks, before.key)
		}
	}
	c.paired = false
}

// regrouped notes that selectors have other members.
func (c *callers) regrouped(texts map[string]bool) {
	if len(texts) == 0 {
		return
	}
	for _, a := range c.asks {
		if slices.ContainsFunc(a.texts, func(text string) bool { return texts[text] }) {
			a.wanted = nil
		}
	}
}

// tellCallers finds out who is a peer of whom, where that may have changed, and
// has the hosts written again that are told something else.
func (s *segments) tellCallers() {
	c := &s.callers
	var changed []*hostPart
	for h := range c.touched {
		next := s.peerOf(h)
		if before := h.caller.self; before == next || before != nil && next != nil && before.digest == next.digest {
			continue
		}
		h.caller.self = next
		changed = append(changed, h)
		s.reread[h] = true
	}
	for _, a := range c.asks {
		if a.wanted == nil {
			s.match(a)
			c.paired = false
			continue
		}
		for _, h := range changed {
			if self := h.caller.self; self.hides() && self.identities.Intersects(a.wanted) {
				a.match.Add(h.caller.index)
			} else {
				a.match.Remove(h.caller.index)
			}
		}
	}
	if len(changed) > 0 || !c.paired {
		s.pair()
		c.paired = true
	}
}

// hides says whether the address of a host does not tell who calls.
func (p *peer) hides() bool { return p != nil && p.identities.GetCardinality() > 1 }

// match finds the peers that a set of selectors asks about.
func (s *segments) match(a *asks) {
	a.wanted = roaring.New()
	for _, sel := range a.selectors {
		a.wanted.Or(s.ids.Members(sel))
	}
	a.match.Clear()
	for it := a.wanted.Iterator(); it.HasNext(); {
		x := s.byID[policy.Identity(it.Next())]
		if x == nil {
			continue
		}
		for _, n := range x.where {
			if h := s.hosts[n.host]; h != nil && h.caller.self.hides() {
				a.match.Add(h.caller.index)
			}
		}
	}
}

// peerOf makes what others are told of a host, nil where it takes no part. Of the
// fleet's addresses it has those that nobody on another host claims.
func (s *segments) peerOf(h *hostPart) *peer {
	if h.caller.number == 0 {
		return nil
	}
	p := &peer{number: h.caller.number, identities: roaring.New()}
	var addresses []netip.Addr
	for _, m := range h.members {
		p.identities.Add(uint32(m.who.id))
		for _, a := range m.fleet {
			if s.book.places[a].one() == h {
				addresses = append(addresses, a)
			}
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	addresses = slices.Compact(addresses)
	p.wire = &wirepb.PeerHost{Number: p.number, CallerKey: h.caller.key, Addresses: encodeList(addresses), Identities: p.identities.ToArray()}
	text := binary.BigEndian.AppendUint32(nil, p.number)
	text = append(binary.BigEndian.AppendUint32(text, uint32(len(p.wire.CallerKey))), p.wire.CallerKey...)
	text = appendAddresses(text, addresses)
	for _, id := range p.wire.Identities {
		text = binary.BigEndian.AppendUint32(text, id)
	}
	p.digest = sha256.Sum256(text)
	return p
}

func appendAddresses(b []byte, list []netip.Addr) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
	for _, a := range list {
		b = appendLocated(b, located{addr: a})
	}
	return b
}

func encodeList(list []netip.Addr) [][]byte {
	out := make([][]byte, len(list))
	for i, a := range list {
		out[i] = policywire.EncodeAddress(a)
	}
	return out
}

// pair finds the peers of each host: whom its rules can ask about, itself
// included, and whose rules can ask about it.
func (s *segments) pair() {
	c := &s.callers
	var all []*asks
	matched := map[uint32][]byte{} // by whom, as places in all
	number := map[*asks]uint32{}
	for _, a := range c.asks {
		n := uint32(len(all))
		all, number[a] = append(all, a), n
		for it := a.match.Iterator(); it.HasNext(); {
			i := it.Next()
			matched[i] = binary.BigEndian.AppendUint32(matched[i], n)
		}
	}
	kinds, lists := map[string]*peerList{}, map[[32]byte]*peerList{}
	for i, h := range c.byIndex {
		var list *peerList
		by := matched[i]
		if h.caller.self != nil && (h.caller.asks != nil || len(by) > 0) {
			kind := make([]byte, 4, 4+len(by))
			if h.caller.asks != nil {
				binary.BigEndian.PutUint32(kind, number[h.caller.asks]+1)
			}
			kind = append(kind, by...)
			var done bool
			if list, done = kinds[string(kind)]; !done {
				union := roaring.New()
				if h.caller.asks != nil {
					union.Or(h.caller.asks.match)
				}
				for ; len(by) > 0; by = by[4:] {
					union.Or(all[binary.BigEndian.Uint32(by)].hosts)
				}
				list = c.list(union, lists)
				kinds[string(kind)] = list
			}
		}
		if h.caller.told != list {
			h.caller.told = list
			s.reread[h] = true
		}
	}
	c.lists = lists
}

// list makes a list of those of some hosts that take part, or finds it among the
// lists of before; nil where nobody does.
func (c *callers) list(hosts *roaring.Bitmap, lists map[[32]byte]*peerList) *peerList {
	out := &peerList{}
	for it := hosts.Iterator(); it.HasNext(); {
		if p := c.byIndex[it.Next()].caller.self; p != nil {
			out.peers = append(out.peers, p)
		}
	}
	if len(out.peers) == 0 {
		return nil
	}
	slices.SortFunc(out.peers, func(a, b *peer) int { return cmp.Compare(a.number, b.number) })
	sum := sha256.New()
	for _, p := range out.peers {
		sum.Write(p.digest[:])
	}
	sum.Sum(out.digest[:0])
	known := cmp.Or(lists[out.digest], c.lists[out.digest])
	if known == nil {
		for _, p := range out.peers {
			out.wire = append(out.wire, p.wire)
		}
		known = out
	}
	lists[out.digest] = known
	return known
}

// writeCallers writes who tells whom who calls. A host finds itself at more
// addresses than others find it. Workloads that are no subjects are bearers.
func (s *segments) writeCallers(h *hostPart, out *wirepb.IdentitySection, sum hash.Hash) {
	self, told := h.caller.self, h.caller.told
	if told == nil {
		return
	}
	out.Host, out.Hosts = self.number, told.wire
	text := binary.BigEndian.AppendUint32([]byte{4}, self.number)
	text = append(text, told.digest[:]...)
	var own []netip.Addr
	if i, among := slices.BinarySearchFunc(told.peers, self.number, func(p *peer, n uint32) int { return cmp.Compare(p.number, n) }); among {
		for a := range h.own {
			if _, taken := s.book.claims[a]; !taken {
				own = append(own, a)
			}
		}
		if slices.SortFunc(own, netip.Addr.Compare); len(own) > 0 {
			m := told.wire[i]
			out.Hosts = slices.Clone(told.wire)
			out.Hosts[i] = &wirepb.PeerHost{Number: m.Number, CallerKey: m.CallerKey, Identities: m.Identities, Addresses: slices.Concat(m.Addresses, encodeList(own))}
		}
	}
	text = appendAddresses(text, own)
	for _, m := range h.members {
		if !m.who.subject() {
			out.Bearers = append(out.Bearers, &wirepb.Bearer{Workload: m.id, Identity: uint32(m.who.id)})
			text = append(binary.BigEndian.AppendUint32(text, uint32(len(m.id))), m.id...)
			text = binary.BigEndian.AppendUint32(text, uint32(m.who.id))
		}
	}
	sum.Write(text)
}
