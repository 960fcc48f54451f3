package flow

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weft/agent/connection"
	"weft/internal/application"
	"weft/wire/flowwire"
)

const (
	// maxOpen is how many connections are listened to at a time, each with up to
	// 16 KiB of what it said: of more, the first ones are given up.
	maxOpen = 1024
	// maxHeard is how many connections' applications are known, those that had a record
	// lately and as many more; maxNamed that of names of addresses.
	maxHeard = 32_768
	maxNamed = 16_384
	// settleTime is how long the first record of a connection waits for what it is
	// used for.
	settleTime = 2 * time.Second
)

// hellos finds out from the first bytes of connections what they are used for, and
// from answers of DNS by which names addresses were looked up.
type hellos struct {
	mu    sync.Mutex
	heard recent[key, *hello]
	open  [maxOpen]key // that are listened to, or were: the last ones that came
	turn  int          // the place there of the next
	names recent[place, string]
}

// hello is what a connection began with.
type hello struct {
	recogniser *application.Recogniser // nil: nothing more can be learned
	begun      [2]bool
	next       [2]uint32 // sequence number that each end goes on with
	app        application.Application
}

// place is an address as a network namespace sees it.
type place struct {
	netns   uint64
	address netip.Addr
}

// Hear takes a piece of what a connection begins with.
func (f *Flow) Hear(x *connection.Hello) { f.hellos.hear(x) }

func (h *hellos) hear(x *connection.Hello) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := newKey(x.Local, x.Remote, x.Protocol, x.NetNS, x.Began, false)
	c, known := h.heard.get(k, maxHeard)
	if !known {
		c = &hello{recogniser: application.New(x.Protocol != unix.IPPROTO_TCP)}
		h.heard.put(k, c, maxHeard)
		h.listen(k)
	}
	from := application.Client
	if x.Called {
		from = application.Server
	}
	piece, goesOn := c.order(from, x)
	if !goesOn {
		c.recogniser = nil
	}
	if c.recogniser == nil || len(piece) == 0 {
		return
	}
	app, done := c.recogniser.Feed(from, x.When, piece)
	for _, a := range app.Answers {
		h.names.put(place{x.NetNS, a.Address.Unmap()}, a.Name, maxNamed)
	}
	app.Answers = nil
	if c.app = app; done {
		c.recogniser = nil
	}
}

// listen gives up the one that came maxOpen before.
func (h *hellos) listen(k key) {
	if c, known := h.heard.peek(h.open[h.turn]); known {
		c.recogniser = nil
	}
	h.open[h.turn] = k
	h.turn = (h.turn + 1) % maxOpen
}

// order returns what is new of a piece, and false where some is missing before it.
func (c *hello) order(from application.Side, x *connection.Hello) ([]byte, bool) {
	if x.Protocol != unix.IPPROTO_TCP {
		return x.Bytes, true
	}
	b := x.Bytes
	if c.begun[from] {
		switch again := int32(c.next[from] - x.Seq); {
		case again < 0:
			return nil, false
		case int(again) >= len(b): // sent again
			return nil, true
		default:
			b = b[again:]
		}
	}
	c.begun[from], c.next[from] = true, x.Seq+uint32(len(x.Bytes))
	return b, true
}

// settling says whether more may be learned of a connection before long.
func (h *hellos) settling(k key, age time.Duration) bool {
	if age > settleTime {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	c, known := h.heard.peek(k)
	return known && c.recogniser != nil
}

// name adds to a record what is known of its connection's use.
func (h *hellos) name(k key, ended bool, r *flowwire.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Name == "" && r.Egress {
		r.Name, _ = h.names.get(place{r.NetNS, r.Remote.Addr()}, maxNamed)
	}
	c, known := h.heard.get(k, maxHeard)
	if !known {
		return
	}
	a := &c.app
	r.Application = flowwire.Application{Protocol: string(a.Protocol), Host: a.Host, ALPN: a.ALPN, Method: a.Method, Path: a.Path, Status: uint16(a.Status), Software: a.Software}
	r.Latency = a.Latency
	if ended {
		h.heard.forget(k)
	}
}

// recent is a map that forgets what was not used for long where it is full: it
// holds up to twice as many as it is asked to.
type recent[K comparable, V any] struct{ now, before map[K]V }

func (m *recent[K, V]) peek(k K) (V, bool) {
	v, known := m.now[k]
	if !known {
		v, known = m.before[k]
	}
	return v, known
}

// get is peek for what is to be remembered.
func (m *recent[K, V]) get(k K, room int) (V, bool) {
	v, known := m.now[k]
	if !known {
		if v, known = m.before[k]; known {
			m.put(k, v, room)
		}
	}
	return v, known
}

func (m *recent[K, V]) put(k K, v V, room int) {
	if m.now == nil || len(m.now) >= room {
		m.now, m.before = map[K]V{}, m.now
	}
	m.now[k] = v
}

func (m *recent[K, V]) forget(k K) {
	delete(m.now, k)
	delete(m.before, k)
}
