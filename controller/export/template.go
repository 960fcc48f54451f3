package export

import (
	"encoding/binary"
	"net/netip"
	"time"
	"unicode/utf8"

	"weft/controller/flowstore"
	"weft/model"
	"weft/packet"
)

// Of RFC 7011, 3.
const (
	version10      = 10
	messageHeader  = 16
	setHeader      = 4
	templateSetID  = 2
	variableLength = 65535
	// reversePEN is that of reverse elements (RFC 5103, 6.1).
	reversePEN = 29305
)

// Template ids.
const (
	idIPv4 = 256
	idIPv6 = 257
)

// element is an information element of a template, and how its value is written.
type element struct {
	id, length uint16
	enterprise uint32
	put        func(b []byte, f *flowstore.Flow) []byte
}

type template struct {
	id       uint16
	elements []element
}

// The elements, by their names in IANA's registry.
var (
	commonElements = []element{
		{id: 152, length: 8, put: milliseconds(func(f *flowstore.Flow) time.Time { return f.First })}, // flowStartMilliseconds
		{id: 153, length: 8, put: milliseconds(func(f *flowstore.Flow) time.Time { return f.Last })},  // flowEndMilliseconds
		{id: 323, length: 8, put: milliseconds(func(f *flowstore.Flow) time.Time { return f.Time })},  // observationTimeMilliseconds
		{id: 7, length: 2, put: func(b []byte, f *flowstore.Flow) []byte { return be.AppendUint16(b, f.Client.Port) }},
		{id: 11, length: 2, put: func(b []byte, f *flowstore.Flow) []byte { return be.AppendUint16(b, f.Server.Port) }},
		{id: 4, length: 1, put: func(b []byte, f *flowstore.Flow) []byte { return append(b, f.Protocol) }},              // protocolIdentifier
		{id: 239, length: 1, put: func(b []byte, _ *flowstore.Flow) []byte { return append(b, 1) }},                     // biflowDirection: initiator
		{id: 136, length: 1, put: func(b []byte, f *flowstore.Flow) []byte { return append(b, endOf(f)) }},              // flowEndReason
		{id: 89, length: 1, put: func(b []byte, f *flowstore.Flow) []byte { return append(b, verdict(f)) }},             // forwardingStatus
		{id: 1, length: 8, put: func(b []byte, f *flowstore.Flow) []byte { return be.AppendUint64(b, f.Sent.Bytes) }},   // octetDeltaCount
		{id: 2, length: 8, put: func(b []byte, f *flowstore.Flow) []byte { return be.AppendUint64(b, f.Sent.Packets) }}, // packetDeltaCount
		{id: 1, length: 8, enterprise: reversePEN, put: func(b []byte, f *flowstore.Flow) []byte { return be.AppendUint64(b, f.Received.Bytes) }},
		{id: 2, length: 8, enterprise: reversePEN, put: func(b []byte, f *flowstore.Flow) []byte { return be.AppendUint64(b, f.Received.Packets) }},
		{id: 6, length: 2, put: func(b []byte, f *flowstore.Flow) []byte { return appendFlags(b, f.ClientFlags) }}, // tcpControlBits (RFC 7125)
		{id: 6, length: 2, enterprise: reversePEN, put: func(b []byte, f *flowstore.Flow) []byte { return appendFlags(b, f.ServerFlags) }},
		{id: 133, length: 8, put: func(b []byte, f *flowstore.Flow) []byte { return be.AppendUint64(b, uint64(f.Drops)) }}, // droppedPacketDeltaCount
		{id: 371, length: variableLength, put: words(func(f *flowstore.Flow) string { return f.User })},                    // userName
		{id: 16, length: 4, put: func(b []byte, f *flowstore.Flow) []byte { return be.AppendUint32(b, f.Client.AS) }},      // bgpSourceAsNumber
		{id: 17, length: 4, put: func(b []byte, f *flowstore.Flow) []byte { return be.AppendUint32(b, f.Server.AS) }},      // bgpDestinationAsNumber
	}
	ipv4Elements = []element{ // sourceIPv4Address, destinationIPv4Address
		{id: 8, length: 4, put: func(b []byte, f *flowstore.Flow) []byte { return appendIPv4(b, f.Client.Address) }},
		{id: 12, length: 4, put: func(b []byte, f *flowstore.Flow) []byte { return appendIPv4(b, f.Server.Address) }},
	}
	ipv6Elements = []element{ // sourceIPv6Address, destinationIPv6Address
		{id: 27, length: 16, put: func(b []byte, f *flowstore.Flow) []byte { return appendIPv6(b, f.Client.Address) }},
		{id: 28, length: 16, put: func(b []byte, f *flowstore.Flow) []byte { return appendIPv6(b, f.Server.Address) }},
	}
	// enterpriseElements are strings, in this order from 1 on: client workload, server
	// workload, reporting host, process, name by which the server was looked up, client's
	// country, server's country, state of TCP, reason why packets were dropped.
	enterpriseElements = []func(f *flowstore.Flow) string{
		func(f *flowstore.Flow) string { return f.Client.Workload },
		func(f *flowstore.Flow) string { return f.Server.Workload },
		func(f *flowstore.Flow) string { return f.Host },
		func(f *flowstore.Flow) string { return f.Process },
		func(f *flowstore.Flow) string { return f.Name },
		func(f *flowstore.Flow) string { return f.Client.Country },
		func(f *flowstore.Flow) string { return f.Server.Country },
		func(f *flowstore.Flow) string { return f.TCPState },
		func(f *flowstore.Flow) string { return f.DropReason },
	}
)

var be = binary.BigEndian

func templateOf(id uint16, enterprise uint32) template {
	t := template{id: id}
	if id == idIPv4 {
		t.elements = append(t.elements, ipv4Elements...)
	} else {
		t.elements = append(t.elements, ipv6Elements...)
	}
	t.elements = append(t.elements, commonElements...)
	if enterprise != 0 {
		for i, text := range enterpriseElements {
			t.elements = append(t.elements, element{id: uint16(i + 1), length: variableLength, enterprise: enterprise, put: words(text)})
		}
	}
	return t
}

// templateIndex is 0 where both ends have IPv4 addresses, else 1.
func templateIndex(f *flowstore.Flow) int {
	if f.Client.Address.Is4() && f.Server.Address.Is4() {
		return 0
	}
	return 1
}

// appendTemplates adds a Template Set.
func appendTemplates(b []byte, list []template) []byte {
	start := len(b)
	b = append(b, make([]byte, setHeader)...)
	for _, t := range list {
		b = be.AppendUint16(b, t.id)
		b = be.AppendUint16(b, uint16(len(t.elements)))
		for _, e := range t.elements {
			if e.enterprise == 0 {
				b = be.AppendUint16(be.AppendUint16(b, e.id), e.length)
				continue
			}
			b = be.AppendUint32(be.AppendUint16(be.AppendUint16(b, e.id|0x8000), e.length), e.enterprise)
		}
	}
	putSet(b[start:], templateSetID)
	return b
}

func (t *template) appendRecord(b []byte, f *flowstore.Flow) []byte {
	for i := range t.elements {
		b = t.elements[i].put(b, f)
	}
	return b
}

// putSet writes the header of a set that is complete.
func putSet(set []byte, id uint16) {
	be.PutUint16(set, id)
	be.PutUint16(set[2:], uint16(len(set)))
}

// putMessage writes the header of a message that is complete. Sequence counts the
// data records before it.
func putMessage(m []byte, now time.Time, sequence, domain uint32) {
	be.PutUint16(m, version10)
	be.PutUint16(m[2:], uint16(len(m)))
	be.PutUint32(m[4:], uint32(now.Unix())) //nolint:gosec // until 2106, as the RFC has it
	be.PutUint32(m[8:], sequence)
	be.PutUint32(m[12:], domain)
}

func milliseconds(of func(*flowstore.Flow) time.Time) func([]byte, *flowstore.Flow) []byte {
	return func(b []byte, f *flowstore.Flow) []byte {
		return be.AppendUint64(b, uint64(max(of(f).UnixMilli(), 0)))
	}
}

// maxText is how much of a string is sent, so that a record always fits a datagram.
const maxText = 128

// words writes a string of variable length (RFC 7011, 7), cut where a character
// ends.
func words(of func(*flowstore.Flow) string) func([]byte, *flowstore.Flow) []byte {
	return func(b []byte, f *flowstore.Flow) []byte {
		s := of(f)
		if len(s) > maxText {
			n := maxText
			for n > maxText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
				n--
			}
			s = s[:n]
		}
		return append(append(b, byte(len(s))), s...)
	}
}

// appendFlags writes flags that are kept as letters.
func appendFlags(b []byte, letters string) []byte {
	return be.AppendUint16(b, uint16(packet.ParseTCPFlags(letters)))
}

func appendIPv4(b []byte, a netip.Addr) []byte {
	x := a.As4()
	return append(b, x[:]...)
}

func appendIPv6(b []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		a = netip.IPv6Unspecified()
	}
	x := a.As16()
	return append(b, x[:]...)
}

// endOf is a flowEndReason: end of flow detected, or active timeout.
func endOf(f *flowstore.Flow) byte {
	if f.Ended {
		return 3
	}
	return 2
}

// verdict is a forwardingStatus: forwarded, or dropped by an access list.
func verdict(f *flowstore.Flow) byte {
	if f.Action == model.ActionAllow {
		return 64
	}
	return 129
}
