package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"

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

// peer is what others are told of a host.
type peer struct {
	name       string
	number     uint32
	key        []byte
	addresses  []netip.Addr // of the fleet's book; ascending
	identities []uint32     // ascending
	set        *roaring.Bitmap
	wire       *wirepb.PeerHost
}

func (p *peer) same(o *peer) bool {
	return o != nil && p.number == o.number && slices.Equal(p.key, o.key) && slices.Equal(p.addresses, o.addresses) && slices.Equal(p.identities, o.identities)
}

// peerBook is who could be peers, by host name.
type peerBook struct {
	peers map[string]*peer
	own   map[string][]netip.Addr // addresses that mean a host only on itself; ascending
}

// newPeerBook reads the hosts that have a key. What equals the last book's is
// taken over, so that the same pointer says the same.
func (c *compute) newPeerBook(ids map[string]policy.Identity, last *peerBook) *peerBook {
	b := &peerBook{peers: map[string]*peer{}, own: map[string][]netip.Addr{}}
	numbers := map[uint32][]string{}
	for _, h := range c.Hosts {
		if name := h.Metadata.Name; !h.Spec.Revoked && len(c.CallerKeys[name]) > 0 {
			p := &peer{name: name, number: HostNumber(h.Metadata.UID), key: c.CallerKeys[name], set: roaring.New()}
			b.peers[name], numbers[p.number] = p, append(numbers[p.number], name)
		}
	}
	for n, names := range numbers {
		if n == 0 || len(names) > 1 {
			for _, name := range names {
				delete(b.peers, name)
			}
		}
	}
	names := slices.Sorted(maps.Keys(b.peers))
	place := map[string]policy.Identity{} // of each workload, its host is an identity here
	at := map[string]int{}
	for i, name := range names {
		at[name] = i + 1
	}
	for _, w := range c.workloads {
		place[w.Metadata.Name] = policy.Identity(at[w.Spec.Host])
		if p := b.peers[w.Spec.Host]; p != nil {
			p.set.Add(uint32(ids[w.Metadata.Name]))
		}
	}
	fleet, own := addresses(c.workloads, c.Interfaces, place)
	for a, i := range fleet {
		if i != 0 {
			p := b.peers[names[i-1]]
			p.addresses = append(p.addresses, a)
		}
	}
	for _, name := range names {
		p := b.peers[name]
		slices.SortFunc(p.addresses, netip.Addr.Compare)
		p.identities = p.set.ToArray()
		for a := range own[name] {
			if _, taken := fleet[a]; !taken {
				b.own[name] = append(b.own[name], a)
			}
		}
		slices.SortFunc(b.own[name], netip.Addr.Compare)
		if last != nil && p.same(last.peers[name]) {
			b.peers[name] = last.peers[name]
			continue
		}
		p.wire = &wirepb.PeerHost{Number: p.number, CallerKey: p.key, Addresses: encodeList(p.addresses), Identities: p.identities}
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

// asked finds the peers of each host, by number: whom its rules can ask about,
// itself included, and whose rules can ask about it. Hosts alike in both, of which
// there are many and few kinds, share one list.
func (b *peerBook) asked(c *compiled, subjects map[string][]subject) map[string][]*peer {
	all := slices.SortedFunc(maps.Values(b.peers), func(a, b *peer) int { return cmp.Compare(a.number, b.number) })
	at := make(map[*peer]uint32, len(all))
	for i, p := range all {
		at[p] = uint32(i)
	}
	askers := map[*ruleset]*roaring.Bitmap{} // who is judged by it
	for name, list := range subjects {
		own := b.peers[name]
		if own == nil {
			continue
		}
		for _, s := range list {
			for _, r := range []*ruleset{c.ruleset(s.enforced), c.ruleset(s.staged)} {
				if askers[r] == nil {
					askers[r] = roaring.New()
				}
				askers[r].Add(at[own])
			}
		}
	}
	rulesets := slices.SortedFunc(maps.Keys(askers), func(a, b *ruleset) int { return cmp.Compare(a.wire.Key, b.wire.Key) })
	matching := map[*ruleset]*roaring.Bitmap{}
	for _, r := range rulesets {
		matching[r] = matchingPeers(all, c, r)
	}
	kinds := map[string][]*peer{}
	out := map[string][]*peer{}
	for _, p := range all {
		kind := make([]byte, len(rulesets)) // bit 0: its rules; bit 1: they match it
		for i, r := range rulesets {
			if askers[r].Contains(at[p]) {
				kind[i] |= 1
			}
			if matching[r].Contains(at[p]) {
				kind[i] |= 2
			}
		}
		list, done := kinds[string(kind)]
		if !done {
			union := roaring.New()
			for i, r := range rulesets {
				if kind[i]&1 != 0 {
					union.Or(matching[r])
				}
				if kind[i]&2 != 0 {
					union.Or(askers[r])
				}
			}
			for it := union.Iterator(); it.HasNext(); {
				list = append(list, all[it.Next()])
			}
			kinds[string(kind)] = list
		}
		if len(list) > 0 {
			out[p.name] = list
		}
	}
	return out
}

// matchingPeers are the hosts on which somebody lives that a ruleset can ask
// about, and whose address does not tell who calls.
func matchingPeers(all []*peer, c *compiled, r *ruleset) *roaring.Bitmap {
	wanted, out := roaring.New(), roaring.New()
	for _, s := range r.selectors {
		wanted.Or(c.world.Identities.Members(s))
	}
	for i, p := range all {
		if len(p.identities) > 1 && wanted.Intersects(p.set) {
			out.Add(uint32(i))
		}
	}
	return out
}

// bearers are the workloads of a host that are no subjects.
func bearers(workloads []*model.Workload, ids map[string]policy.Identity, subjects []subject) []subject {
	judged := map[string]bool{}
	for _, s := range subjects {
		judged[s.workload] = true
	}
	var out []subject
	for _, w := range workloads {
		if id := WorkloadID(w); !judged[id] {
			out = append(out, subject{workload: id, identity: ids[w.Metadata.Name]})
		}
	}
	slices.SortFunc(out, func(a, b subject) int { return cmp.Compare(a.workload, b.workload) })
	return out
}

// encodePeers writes who tells whom who calls. A host finds itself at more
// addresses than others find it.
func (h *hostSegment) encodePeers(who *wirepb.IdentitySection) {
	if h.self == nil || len(h.peers) == 0 {
		return
	}
	who.Host = h.self.number
	for _, p := range h.peers {
		m := p.wire
		if p == h.self && len(h.selfAddresses) > 0 {
			m = &wirepb.PeerHost{Number: m.Number, CallerKey: m.CallerKey, Identities: m.Identities, Addresses: slices.Concat(m.Addresses, encodeList(h.selfAddresses))}
		}
		who.Hosts = append(who.Hosts, m)
	}
	for _, b := range h.bearers {
		who.Bearers = append(who.Bearers, &wirepb.Bearer{Workload: b.workload, Identity: uint32(b.identity)})
	}
}
