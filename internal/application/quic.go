package application

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// version is what differs between versions of QUIC whose first packets can be
// read: RFC 9001 and RFC 9369.
type version struct {
	salt    string
	prefix  string // of the keys' labels
	initial byte   // type of the packet
}

var versions = map[uint32]version{
	0x00000001: {"38762cf7f55934b34d179ae6a4c80cadccbb7f0a", "quic ", 0},
	0x6b3343cf: {"0dede3def700a6db819381be6e269dcbf9bd2ed9", "quicv2 ", 1},
	0xff00001d: {"afbfec289993d24c9e9786f19c6111e04390a899", "quic ", 0}, // the last drafts, 29 to 32
	0xff00001e: {"afbfec289993d24c9e9786f19c6111e04390a899", "quic ", 0},
	0xff00001f: {"afbfec289993d24c9e9786f19c6111e04390a899", "quic ", 0},
	0xff000020: {"afbfec289993d24c9e9786f19c6111e04390a899", "quic ", 0},
}

// initial is the client's handshake as far as its first packets have it.
type initial struct {
	keys   keys
	hello  [maxKept]byte
	have   [maxKept / 64]uint64 // which bytes of it
	length int                  // up to which there are bytes
}

// keys open the client's Initial packets.
type keys struct {
	aead   cipher.AEAD
	iv     []byte
	header cipher.Block
}

// readQUIC reads the Initial packets of a datagram.
func (r *Recogniser) readQUIC(datagram []byte) verdict {
	out := no
	for range 4 { // packets may share a datagram
		p, rest, ok := parseLong(datagram)
		if !ok {
			break
		}
		datagram = rest
		if p.kind != p.version.initial {
			if r.quic != nil {
				out = is // early data, between the packets of a long handshake
			}
			continue
		}
		if r.quic == nil {
			k, err := clientKeys(p.version, p.destination)
			if err != nil {
				return no
			}
			r.quic = &initial{keys: k}
		}
		frames, ok := r.quic.keys.open(p)
		if !ok {
			if r.app.Protocol == "" {
				r.quic = nil
			}
			continue
		}
		r.app.Protocol = QUIC
		out = is
		r.quic.crypto(frames)
		if hello, v := readHello(r.quic.records()); v == whole {
			r.app.hello(hello)
			r.finish()
			return whole
		}
	}
	return out
}

// long is a packet with a long header (RFC 9000, 17.2).
type long struct {
	version     version
	kind        byte
	destination []byte
	packet      []byte // from the first byte to the last
	number      int    // where its number begins
}

// parseLong finds the first packet of a datagram, and what follows it.
func parseLong(b []byte) (p long, rest []byte, ok bool) {
	if len(b) < 7 || b[0]&0xc0 != 0xc0 {
		return p, nil, false
	}
	if p.version, ok = versions[binary.BigEndian.Uint32(b[1:])]; !ok {
		return p, nil, false
	}
	p.kind = b[0] >> 4 & 3
	at := 5
	id := func() (out []byte, ok bool) {
		if at >= len(b) || b[at] > 20 || len(b) < at+1+int(b[at]) {
			return nil, false
		}
		out = b[at+1 : at+1+int(b[at])]
		at += 1 + len(out)
		return out, true
	}
	if p.destination, ok = id(); !ok {
		return p, nil, false
	}
	if _, ok = id(); !ok {
		return p, nil, false
	}
	if p.kind == p.version.initial {
		n, used := varint(b[at:])
		if used == 0 || n > uint64(len(b)-at-used) {
			return p, nil, false
		}
		at += used + int(n) // a token
	}
	n, used := varint(b[at:])
	if used == 0 || n > uint64(len(b)-at-used) || n < 20 {
		return p, nil, false
	}
	p.number = at + used
	end := p.number + int(n)
	p.packet = b[:end]
	return p, b[end:], true
}

// varint reads RFC 9000's integer; used is 0 where it is not all there.
func varint(b []byte) (n uint64, used int) {
	if len(b) == 0 {
		return 0, 0
	}
	used = 1 << (b[0] >> 6)
	if len(b) < used {
		return 0, 0
	}
	n = uint64(b[0] & 0x3f)
	for _, c := range b[1:used] {
		n = n<<8 | uint64(c)
	}
	return n, used
}

// clientKeys derives what opens the client's Initial packets (RFC 9001, 5.2).
func clientKeys(v version, destination []byte) (keys, error) {
	salt, err := hex.DecodeString(v.salt)
	if err != nil {
		return keys{}, err
	}
	secret, err := hkdf.Extract(sha256.New, destination, salt)
	if err != nil {
		return keys{}, err
	}
	if secret, err = expand(secret, "client in", 32); err != nil {
		return keys{}, err
	}
	key, err := expand(secret, v.prefix+"key", 16)
	if err != nil {
		return keys{}, err
	}
	iv, err := expand(secret, v.prefix+"iv", 12)
	if err != nil {
		return keys{}, err
	}
	hp, err := expand(secret, v.prefix+"hp", 16)
	if err != nil {
		return keys{}, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return keys{}, err
	}
	out := keys{iv: iv}
	if out.aead, err = cipher.NewGCM(block); err != nil {
		return keys{}, err
	}
	out.header, err = aes.NewCipher(hp)
	return out, err
}

// expand is HKDF-Expand-Label of RFC 8446, 7.1, without a context.
func expand(secret []byte, label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := append([]byte{byte(n >> 8), byte(n), byte(len(label))}, label...)
	return hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
}

// open takes protection off a packet; its bytes stay as they are.
func (k *keys) open(p long) (frames []byte, ok bool) {
	const most = 4 // bytes of a number
	if len(p.packet) < p.number+most+aes.BlockSize {
		return nil, false
	}
	var mask [aes.BlockSize]byte
	k.header.Encrypt(mask[:], p.packet[p.number+most:][:aes.BlockSize])
	first := p.packet[0] ^ mask[0]&0x0f
	n := int(first&3) + 1
	header := append([]byte{first}, p.packet[1:p.number+n]...)
	nonce := append([]byte{}, k.iv...)
	for i := range n {
		header[p.number+i] ^= mask[1+i]
		nonce[len(nonce)-n+i] ^= header[p.number+i]
	}
	frames, err := k.aead.Open(nil, nonce, p.packet[p.number+n:], header)
	return frames, err == nil
}

// crypto puts the pieces of the handshake where they belong.
func (i *initial) crypto(frames []byte) {
	for len(frames) > 0 {
		kind := frames[0]
		frames = frames[1:]
		switch kind {
		case 0, 1: // padding, ping
		case 2, 3: // ack
			fields := 4
			for f := 0; f < fields; f++ {
				n, used := varint(frames)
				if used == 0 {
					return
				}
				frames = frames[used:]
				if f == 2 {
					if n > 64 {
						return
					}
					fields += 2 * int(n)
					if kind == 3 {
						fields += 3
					}
				}
			}
		case 6:
			offset, used := varint(frames)
			length, used2 := varint(frames[used:])
			if used == 0 || used2 == 0 || length > uint64(len(frames)-used-used2) {
				return
			}
			frames = frames[used+used2:]
			i.place(offset, frames[:length])
			frames = frames[length:]
		default: // nothing that may be in an Initial packet, but for the end of all
			return
		}
	}
}

func (i *initial) place(offset uint64, b []byte) {
	if offset >= maxKept {
		return
	}
	n := copy(i.hello[offset:], b)
	for at := int(offset); at < int(offset)+n; at++ {
		i.have[at/64] |= 1 << (at % 64)
	}
	i.length = max(i.length, int(offset)+n)
}

// records is the handshake up to the first gap, as records of TLS.
func (i *initial) records() []byte {
	n := 0
	for n < i.length && i.have[n/64]&(1<<(n%64)) != 0 {
		n++
	}
	return append([]byte{22, 3, 1, byte(n >> 8), byte(n)}, i.hello[:n]...)
}
