package nft

import (
	"encoding/binary"
	"net/netip"
)

// The names of the sets whose content follows the state. README.md draws them.
const (
	setViews   = "views"   // role of the packet, where no cgroup tells the subject
	setCgroups = "cgroups" // role and cgroup id -> view
	setLabels  = "labels"  // role and label of the connection -> view
	setPeers   = "peers"   // family and address -> peer
	setClasses = "classes" // view and peer -> class
	setPorts   = "ports"   // class, protocol and port -> verdict
)

// contentSets in the order in which they are filled.
var contentSets = []string{setPorts, setClasses, setPeers, setCgroups, setLabels, setViews}

// content is what the sets hold: by set and key (the first of a range).
type content map[string]map[string]value

// value is what a key, or the range from it up to (not with) end, maps to.
type value struct {
	end  string
	data uint32
}

func newContent() content {
	c := content{}
	for _, s := range contentSets {
		c[s] = map[string]value{}
	}
	return c
}

func isRange(set string) bool { return set == setPeers || set == setPorts }

func be32(values ...uint32) string {
	var b []byte
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return string(b)
}

// portKey is the key of setPorts; span is protocol<<16|port. Protocol and port
// stand first in their registers, whose rest is zero.
func portKey(class, span uint32) string {
	if span > 1<<24-1 {
		class, span = class+1, 0
	}
	return be32(class, span>>16<<24, span<<16)
}

// Families as the kernel's nfproto.
const (
	family4 = 2
	family6 = 10
)

// addrKey is the key of setPeers.
func addrKey(a netip.Addr) string {
	var b [20]byte
	if a.Is4() {
		b[0] = family4
		v4 := a.As4()
		copy(b[4:], v4[:])
	} else {
		b[0] = family6
		v6 := a.As16()
		copy(b[4:], v6[:])
	}
	return string(b[:])
}

// afterAddr is the key after the last address of a range.
func afterAddr(last netip.Addr) string {
	if next := last.Next(); next.IsValid() {
		return addrKey(next)
	}
	var b [20]byte
	b[0] = family4 + 1
	if last.Is6() {
		b[0] = family6 + 1
	}
	return string(b[:])
}

func viewKey(role uint32) string { return be32(role) }

// cgroupKey is the role and the id as the kernel has it in a register.
func cgroupKey(role uint32, id uint64) string {
	return be32(role) + string(binary.NativeEndian.AppendUint64(nil, id))
}

// labelKey is the role, the low half of the cgroup's id and the epoch.
func labelKey(role uint32, id uint64, epoch uint32) string {
	return be32(role) + string(binary.NativeEndian.AppendUint32(nil, uint32(id))) + be32(epoch)
}
