package policy

import (
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"weft/model"
)

// space cuts everything packets can differ in into pieces within which no rule of
// two compiled worlds can tell one from another.
type space struct {
	identities *Identities
	// By the direction in which the end is the subject: what is asked of it as
	// the peer (in the other direction), and of its processes as the subject.
	peers     [2][]Peer
	processes [2][][]model.PolicyProcess
	prefixes  []netip.Prefix
	managed   bool // addresses of workloads matter
	entities  EntitySet
	exes      []string // each list ends in "", for anything else
	users     []string
	cgroups   []string
	names     []string
	bounds    map[uint8][]uint32 // first values of the intervals, by protocol
	classes   [2][]End           // one end of each class: destinations, sources
}

func newSpace(ids []Identity, sets ...*Set) *space {
	s := &space{identities: sets[0].identities, bounds: map[uint8][]uint32{}}
	peers, lists := [2]map[string]Peer{{}, {}}, [2]map[string][]model.PolicyProcess{{}, {}}
	prefixes := map[netip.Prefix]bool{netip.MustParsePrefix("0.0.0.0/0"): true, netip.MustParsePrefix("::/0"): true}
	for _, set := range sets {
		for _, id := range ids {
			r := set.For(id)
			if r == nil {
				continue
			}
			for _, d := range []Direction{Ingress, Egress} {
				t := r.table(d)
				for _, rule := range t.Rules {
					lists[d][processText(rule.Processes)] = rule.Processes
					s.addPorts(rule.Ports)
					for _, p := range rule.Peers {
						peers[1-d][p.String()] = p
					}
				}
				for _, def := range t.Defaults {
					lists[d][processText(def.Processes)] = def.Processes
				}
				for _, b := range t.Blocks() {
					prefixes[b.Prefix] = true
					s.managed = s.managed || len(b.Managed) > 0
				}
			}
		}
	}
	for d := range 2 {
		for _, k := range slices.Sorted(maps.Keys(peers[d])) {
			s.addPeer(d, peers[d][k])
		}
		for _, k := range slices.Sorted(maps.Keys(lists[d])) {
			s.processes[d] = append(s.processes[d], lists[d][k])
			s.addProcesses(lists[d][k])
		}
	}
	for _, list := range []*[]string{&s.exes, &s.users, &s.cgroups, &s.names} {
		*list = append(*list, "")
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	s.prefixes = slices.SortedFunc(maps.Keys(prefixes), model.ComparePrefix)
	for n, b := range s.bounds {
		slices.Sort(b)
		s.bounds[n] = slices.Compact(b)
	}
	return s
}

func (s *space) addPeer(d int, p Peer) {
	s.peers[d] = append(s.peers[d], p)
	s.entities |= p.Entities &^ (bitAny | bitWorld | bitFleet)
	for _, n := range p.Names {
		s.names = append(s.names, strings.Replace(n, "*", "weft-witness", 1))
	}
	s.addProcesses(p.Processes)
}

func (s *space) addProcesses(list []model.PolicyProcess) {
	for _, p := range list {
		if p.Cgroup == "/" {
			p.Cgroup = "/weft-witness"
		}
		s.exes, s.users, s.cgroups = append(s.exes, p.Exe), append(s.users, p.User), append(s.cgroups, p.Cgroup)
	}
}

func (s *space) addPorts(ports []Port) {
	for _, p := range ports {
		b := append(s.bounds[p.Protocol], 0, uint32(p.First))
		if p.Last < 65535 {
			b = append(b, uint32(p.Last)+1)
		}
		s.bounds[p.Protocol] = b
	}
}

// combinations is how many ends enumerate would look at.
func (s *space) combinations(identities int) int {
	return (identities + 1) * (len(s.prefixes) + 2) * len(s.exes) * len(s.users) * len(s.cgroups) * len(s.names) << bits.OnesCount16(uint16(s.entities))
}

// enumerate fills classes with one end for each that can exist.
func (s *space) enumerate(ids []Identity) {
	var addrs []netip.Addr
	for _, p := range s.prefixes {
		if a, ok := outside(p, s.prefixes); ok {
			addrs = append(addrs, a)
		}
	}
	seen := [2]map[string]bool{{}, {}}
	for _, id := range append([]Identity{0}, ids...) {
		list := addrs
		if id != 0 && !s.managed {
			list = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
		}
		for _, addr := range list {
			// The plainest first: one end of each class is kept, for people to read.
			for set := EntitySet(0); ; set = (set - s.entities) & s.entities {
				s.enumerateRest(End{Addr: addr, Identity: id, Entities: set}, seen)
				if set == s.entities {
					break
				}
			}
		}
	}
}

func (s *space) enumerateRest(e End, seen [2]map[string]bool) {
	for _, name := range s.names {
		e.Names = nil
		if name != "" {
			e.Names = []string{name}
		}
		for _, exe := range s.exes {
			for _, user := range s.users {
				for _, cgroup := range s.cgroups {
					e.Process = model.PolicyProcess{Exe: exe, User: user, Cgroup: cgroup}
					for _, d := range []Direction{Ingress, Egress} {
						if k := s.class(d, &e); !seen[d][k] {
							seen[d][k] = true
							s.classes[d] = append(s.classes[d], e)
						}
					}
				}
			}
		}
	}
}

// class is equal for two ends exactly where nothing can tell them apart, as
// sources (Egress) or as destinations (Ingress).
func (s *space) class(d Direction, e *End) string {
	b := []byte{byte(e.Identity >> 24), byte(e.Identity >> 16), byte(e.Identity >> 8), byte(e.Identity), byte(e.Addr.Unmap().BitLen())}
	bit := func(v bool) {
		if v {
			b = append(b, '1')
		} else {
			b = append(b, '0')
		}
	}
	j := judge{}
	for i := range s.peers[d] {
		p := &s.peers[d][i]
		if p.Selector != nil {
			bit(s.identities.Members(*p.Selector).Contains(uint32(e.Identity)) && processMatches(p.Processes, &e.Process))
		} else {
			bit(j.peerMatches(p, e) && processMatches(p.Processes, &e.Process))
		}
	}
	if e.Identity != 0 { // what is no workload is no subject
		for _, list := range s.processes[d] {
			bit(processMatches(list, &e.Process))
		}
	}
	return string(b)
}

// outside returns an address of p that is in no narrower range of the list.
func outside(p netip.Prefix, list []netip.Prefix) (netip.Addr, bool) {
	var inner []netip.Prefix
	for _, x := range list {
		if x.Bits() > p.Bits() && p.Contains(x.Addr()) {
			inner = append(inner, x)
		}
	}
	if len(inner) == 0 {
		return p.Addr(), true
	}
	low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	raw := p.Addr().AsSlice()
	raw[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	top, _ := netip.AddrFromSlice(raw)
	for _, half := range []netip.Prefix{low, netip.PrefixFrom(top, p.Bits()+1)} {
		if slices.Contains(inner, half) {
			continue
		}
		if a, ok := outside(half, inner); ok {
			return a, true
		}
	}
	return netip.Addr{}, false
}
