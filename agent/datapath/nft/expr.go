package nft

import (
	"encoding/binary"
	"time"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft/policy"
)

// Registers are of 32 bits, numbered from 8 to 23. Within a rule that judges:
//
//	 8  view    then class, then verdict
//	 9  peer    then protocol
//	10  port
//	12  family, 13-16 address
//	15  role, 16-17 cgroup id; 16-19 label
const (
	regView   = 8
	regPeer   = 9
	regPort   = 10
	regFamily = 12
	regAddr   = 13
	regRole   = 15
	regCgroup = 16
	regLabel  = 16
)

func goTo(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func jump(chain string) []expr.Any { return goTo(expr.VerdictGoto, chain) }
func call(chain string) []expr.Any { return goTo(expr.VerdictJump, chain) }
func back() []expr.Any             { return goTo(expr.VerdictReturn, "") }
func accept() []expr.Any           { return goTo(expr.VerdictAccept, "") }
func drop() []expr.Any             { return goTo(expr.VerdictDrop, "") }

func load(register uint32, data ...byte) expr.Any {
	return &expr.Immediate{Register: register, Data: data}
}

func load32(register, v uint32) expr.Any {
	return load(register, binary.BigEndian.AppendUint32(nil, v)...)
}

// lookup puts what the key in a register maps to into another.
func lookup(set string, from, to uint32) []expr.Any {
	return []expr.Any{&expr.Lookup{SetName: set, SourceRegister: from, DestRegister: to, IsDestRegSet: true}}
}

func with(first []expr.Any, rest ...[]expr.Any) []expr.Any {
	for _, r := range rest {
		first = append(first, r...)
	}
	return first
}

func is(register uint32, data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}
}

// anyBit keeps bits of a register and goes on where one is left.
func anyBit(register, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}
}

func ctState(bits uint32) []expr.Any {
	return append([]expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: regView}}, anyBit(regView, bits)...)
}

// ctAnswer matches packets against the direction of their connection.
func ctAnswer() []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: regView}, is(regView, 1)}
}

// ctUnconfirmed matches packets of connections whose first has not passed yet.
func ctUnconfirmed() []expr.Any {
	const confirmed = 1 << 3 // IPS_CONFIRMED
	return []expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: regView},
		&expr.Bitwise{SourceRegister: regView, DestRegister: regView, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(confirmed), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regView, Data: make([]byte, 4)}}
}

func ctProtocolIs(protocol uint8) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyPROTOCOL, Register: regView}, is(regView, protocol)}
}

func familyIs(family uint8) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: regView}, is(regView, family)}
}

func l4Is(family, protocol uint8) []expr.Any {
	return append(familyIs(family), &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regView}, is(regView, protocol))
}

func tcp() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regView}, is(regView, 6)}
}

func icmpOf(family uint8) uint8 {
	if family == family6 {
		return 58
	}
	return 1
}

// ctDirection is what expr.Ct wants for the direction of answers: the kernel
// reads one byte, and the library sends four, the highest first.
const ctDirection = 1 << 24

func viewOfBase(role policy.Direction) []expr.Any {
	return with([]expr.Any{load32(regRole, uint32(role))}, lookup(setViews, regRole, regView))
}

func socketCgroup(level uint32) expr.Any {
	return &expr.Socket{Key: expr.SocketKeyCgroupv2, Level: level, Register: regCgroup}
}

func viewByCgroup(role policy.Direction, level uint32) []expr.Any {
	return with([]expr.Any{socketCgroup(level), load32(regRole, uint32(role))}, lookup(setCgroups, regRole, regView))
}

// viewByLabel finds the view by the end of the connection that has been labelled:
// the first half of the label is the sender's, the second the receiver's.
func viewByLabel(role, end policy.Direction) []expr.Any {
	at := uint32(regLabel)
	if end == policy.Ingress {
		at += 2
	}
	label := []expr.Any{&expr.Ct{Key: expr.CtKeyLABELS, Register: regLabel}, load32(at-1, uint32(role))}
	return with(label, lookup(setLabels, at-1, regView))
}

func labelEmpty(role policy.Direction) []expr.Any {
	at := uint32(regLabel)
	if role == policy.Ingress {
		at += 2
	}
	return []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: regView}, is(regView, 0),
		&expr.Ct{Key: expr.CtKeyLABELS, Register: regLabel}, is(at, make([]byte, 8)...)}
}

// giveLabel writes the subject's cgroup into the connection's label. Bits of a
// label can only be added, so this happens once.
func giveLabel(role policy.Direction, level, epoch uint32) []expr.Any {
	const out = 8 // label is made in 8-11
	id, empty := uint32(out), uint32(out+2)
	if role == policy.Ingress {
		id, empty = empty, id
	}
	low := uint32(regCgroup)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		low++ // big endian
	}
	all := []byte{255, 255, 255, 255}
	return []expr.Any{
		socketCgroup(level), load32(regRole, uint32(role)), &expr.Lookup{SetName: setCgroups, SourceRegister: regRole, DestRegister: 20, IsDestRegSet: true},
		&expr.Bitwise{SourceRegister: low, DestRegister: id, Len: 4, Mask: all, Xor: make([]byte, 4)},
		load32(id+1, epoch), load(empty, make([]byte, 8)...),
		&expr.Ct{Key: expr.CtKeyLABELS, Register: out, SourceRegister: true},
	}
}

// peerOfPacket finds the peer by the packet's addresses. At our hooks they are
// as both ends' sockets know them, whatever this machine translates.
func peerOfPacket(family uint8, destination bool) []expr.Any {
	return findPeer(expr.PayloadBaseNetworkHeader, 0, family, destination)
}

// peerOfQuoted finds the peer by the addresses in the packet that an ICMP error
// quotes after its own eight bytes.
func peerOfQuoted(family uint8, destination bool) []expr.Any {
	return findPeer(expr.PayloadBaseTransportHeader, 8, family, destination)
}

func findPeer(base expr.PayloadBase, at uint32, family uint8, destination bool) []expr.Any {
	offset, size := at+12, uint32(4)
	if family == family6 {
		offset, size = at+8, 16
	}
	if destination {
		offset += size
	}
	out := []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: regFamily}, &expr.Payload{Base: base, Offset: offset, Len: size, DestRegister: regAddr}}
	if family == family4 {
		out = append(out, load(regAddr+1, make([]byte, 12)...))
	}
	return with(out, lookup(setPeers, regFamily, regPeer))
}

func classOf() []expr.Any { return lookup(setClasses, regView, regView) }

// portOfPacket loads two bytes of the transport header: the destination's port,
// that of the source at offset 0, or type and code at offset 0 of ICMP.
func portOfPacket(offset uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regPeer},
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2, DestRegister: regPort}}
}

// portOfQuery loads type and code of what opened the connection.
func portOfQuery() []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyPROTOCOL, Register: regPeer}, &expr.Ct{Key: expr.CtKeyPROTODST, Register: regPort}}
}

// portOfConnection loads the port that was opened, as its socket knows it.
func portOfConnection() []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyPROTOCOL, Register: regPeer}, &expr.Ct{Key: expr.CtKeyPROTOSRC, Direction: ctDirection, Register: regPort}}
}

func verdict(kind int) []expr.Any {
	return append(lookup(setPorts, regView, regView), &expr.Lookup{SetName: verdictMaps[kind], SourceRegister: regView, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true})
}

// tcpReset matches segments that reset.
func tcpReset() []expr.Any {
	return append(tcp(), &expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1, DestRegister: regView},
		&expr.Bitwise{SourceRegister: regView, DestRegister: regView, Len: 1, Mask: []byte{4}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regView, Data: []byte{0}})
}

// leaving matches packets at the output hook.
func leaving() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIF, Register: regView}, &expr.Cmp{Op: expr.CmpOpNeq, Register: regView, Data: make([]byte, 4)}}
}

// ofUser matches packets of a socket that a process holds, and none that the
// kernel made.
func ofUser() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeySKUID, Register: regView}}
}

// ownErrors lets pass what the kernel says about packets that these rules turned
// down: it belongs to no connection yet, and no policy could be about it.
func ownErrors(role policy.Direction) [][][]expr.Any {
	out := [][][]expr.Any{{ctAnswer(), ctUnconfirmed(), accept()}}
	for _, e := range []struct{ family, typ, code uint8 }{{family4, 3, 13}, {family6, 1, 1}} {
		match := [][]expr.Any{l4Is(e.family, icmpOf(e.family)),
			{&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2, DestRegister: regView}, is(regView, e.typ, e.code)}}
		if role == policy.Ingress {
			lo := []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: regView}, is(regView, binaryutil.NativeEndian.PutUint16(unix.ARPHRD_LOOPBACK)...)}
			out = append(out, append(match, lo, accept()))
			continue
		}
		out = append(out, append(match[:2:2], ofUser(), ctState(expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), jump("alone-"+role.String())),
			append(match[:2:2], ctState(expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), accept()))
	}
	return out
}

// rememberFor is how long Connections tells of a connection turned down.
const rememberFor = time.Minute

// remember notes a connection that is turned down, by the packet that opened it.
// It fills every register.
func remember(family uint8, role policy.Direction) []expr.Any {
	offset, size := uint32(12), uint32(4)
	if family == family6 {
		offset, size = 8, 16
	}
	address := func(register, offset uint32) []expr.Any {
		out := []expr.Any{&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size, DestRegister: register}}
		if family == family4 {
			out = append(out, load(register+1, make([]byte, 12)...))
		}
		return out
	}
	out := append(familyIs(family), &expr.Ct{Key: expr.CtKeyDIRECTION, Register: 9}, is(9, 0),
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 8}, &expr.Ct{Key: expr.CtKeyPROTOCOL, Register: 9})
	out = append(append(out, address(10, offset)...), address(14, offset+size)...)
	return append(out, &expr.Ct{Key: expr.CtKeyPROTOSRC, Register: 18}, &expr.Ct{Key: expr.CtKeyPROTODST, Register: 19}, &expr.Ct{Key: expr.CtKeyLABELS, Register: 20},
		&expr.Dynset{SrcRegKey: 8, SetName: deniedSet(role), Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: rememberFor})
}

func deniedSet(role policy.Direction) string { return "denied-" + role.String() }

func reject(reset bool) []expr.Any {
	if reset {
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
	}
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}

// logging counts nothing: a rule's count is that of the verdicts it was on the way to.
func logging(text string) []expr.Any {
	return []expr.Any{
		&expr.Limit{Type: expr.LimitTypePkts, Rate: 10, Unit: expr.LimitTimeSecond, Burst: 20},
		&expr.Log{Key: 1 << unix.NFTA_LOG_PREFIX, Data: []byte(text)},
	}
}
