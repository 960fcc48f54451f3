package meter

// maxFragmented is how many datagrams the meter knows the ports of at a time.
const maxFragmented = 4096

// datagram is what all fragments of one have in common.
type datagram struct {
	from, to [16]byte
	id       uint32
	protocol uint8
	version  uint8
}

// fragments knows the ports of the datagrams whose first fragments came last.
type fragments struct {
	places map[datagram]int
	ring   []fragmented
	next   int
}

type fragmented struct {
	datagram
	fromPort, toPort uint16
	used             bool
}

func (f *fragments) init() {
	f.places = make(map[datagram]int, maxFragmented)
	f.ring = make([]fragmented, maxFragmented)
}

func of(p *part) datagram { return datagram{p.from, p.to, p.id, p.protocol, p.version} }

// note remembers the ports of a first fragment.
func (f *fragments) note(p *part) {
	d := of(p)
	at, again := f.places[d]
	if !again {
		at = f.next
		if old := &f.ring[at]; old.used {
			delete(f.places, old.datagram)
		}
		f.next = (f.next + 1) % len(f.ring)
		f.places[d] = at
	}
	f.ring[at] = fragmented{d, p.fromPort, p.toPort, true}
}

func (f *fragments) find(p *part) (fromPort, toPort uint16, known bool) {
	at, known := f.places[of(p)]
	if !known {
		return 0, 0, false
	}
	return f.ring[at].fromPort, f.ring[at].toPort, true
}
