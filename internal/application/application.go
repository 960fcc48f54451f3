// Package application tells from the first bytes of a connection what it is used
// for: which protocol, and by which name the server was called. It keeps no
// bodies, no query strings and nothing of a path that names somebody, and its
// memory is bounded.
package application

import (
	"net/netip"
	"time"
)

// Application is what is known of a connection's use. Fields that are empty are
// not known, or not part of the protocol.
type Application struct {
	// Protocol is one of the names below; empty: none that is known here.
	Protocol Protocol `json:"protocol,omitempty"`
	// Host is the name the client calls the server by: TLS' and QUIC's SNI, HTTP's
	// Host and :authority without a port. For DNS it is the name that was asked about.
	Host string `json:"host,omitempty"`
	ALPN string `json:"alpn,omitempty"` // that the client likes best
	// Of HTTP: the first request and its answer. Path is a template: what looks like
	// an identifier is {id}.
	Method  string        `json:"method,omitempty"`
	Path    string        `json:"path,omitempty"`
	Status  int           `json:"status,omitempty"`
	Latency time.Duration `json:"latencyNanos,omitempty"` // from the request's last byte seen to the answer's first
	// Software is what the server calls itself, where the protocol says so before
	// anything else: SSH, MySQL.
	Software string `json:"software,omitempty"`
	// Answers are of the DNS message that was fed last.
	Answers []Answer `json:"-"`
}

// Answer says that a name that was asked about has an address.
type Answer struct {
	Name    string
	Address netip.Addr
	TTL     time.Duration
}

// Protocol is the name of a protocol.
type Protocol string

// The protocols.
const (
	DNS        Protocol = "dns"
	TLS        Protocol = "tls"
	QUIC       Protocol = "quic"
	HTTP       Protocol = "http"
	HTTP2      Protocol = "http2"
	GRPC       Protocol = "grpc"
	SSH        Protocol = "ssh"
	PostgreSQL Protocol = "postgresql"
	MySQL      Protocol = "mysql"
	Redis      Protocol = "redis"
	Kafka      Protocol = "kafka"
)

// Side is an end of a connection.
type Side uint8

// The ends.
const (
	Client Side = iota
	Server
)

// Limits of what is kept.
const (
	maxKept = 8 << 10 // bytes of a direction: a ClientHello with new keys has some 2 KiB
	maxFed  = 64      // pieces of a direction that are looked at
	maxName = 255
)

// verdict is what a decoder says of the bytes so far.
type verdict uint8

const (
	no    verdict = iota // they are something else
	more                 // they may be it
	is                   // they are it, and more may be learned
	whole                // they are it, and nothing more can be learned
)

// Recogniser looks at the first bytes of one connection.
type Recogniser struct {
	app      Application
	datagram bool
	done     bool
	fed      [2]int
	kept     [2][]byte
	full     [2]bool
	asked    time.Time // when the client's last piece before the server's first came
	answered time.Time
	found    decoder // that said yes
	quic     *initial
}

// decoder reads what both sides have said.
type decoder func(r *Recogniser) verdict

// New makes a Recogniser for a connection of TCP, or for datagrams.
func New(datagrams bool) *Recogniser { return &Recogniser{datagram: datagrams} }

// Feed takes what a side says next: of a stream its next bytes, or a datagram;
// it keeps no reference to b. Done says that nothing more can be learned, and
// that it need not be called again. Answers are of this piece alone.
func (r *Recogniser) Feed(from Side, when time.Time, b []byte) (_ Application, done bool) {
	r.app.Answers = nil
	if r.done || len(b) == 0 {
		return r.app, r.done
	}
	if r.fed[from]++; r.fed[from] > maxFed && r.app.Protocol != DNS {
		return r.finish()
	}
	if r.datagram {
		r.feedDatagram(from, b)
		return r.app, r.done
	}
	if from == Client && r.answered.IsZero() {
		r.asked = when
	} else if from == Server && r.answered.IsZero() {
		r.answered = when
	}
	if room := maxKept - len(r.kept[from]); room < len(b) {
		r.full[from], b = true, b[:room]
	}
	r.kept[from] = append(r.kept[from], b...)
	r.look()
	return r.app, r.done
}

// look asks the decoders that may still be right.
func (r *Recogniser) look() {
	if r.found != nil {
		if r.found(r) != is {
			r.finish()
		}
		return
	}
	waiting := false
	for _, d := range []decoder{readTLS, readHTTP1, readHTTP2, readSSH, readPostgreSQL, readMySQL, readRedis, readKafka, readDNSStream} {
		switch d(r) {
		case whole:
			r.finish()
			return
		case is:
			r.found = d
			return
		case more:
			waiting = true
		}
	}
	if !waiting || r.full[Client] || r.full[Server] {
		r.finish()
	}
}

// finish gives memory back.
func (r *Recogniser) finish() (Application, bool) {
	r.done, r.found, r.quic = true, nil, nil
	r.kept = [2][]byte{}
	return r.app, true
}

func (r *Recogniser) feedDatagram(from Side, b []byte) {
	if r.app.Protocol == "" || r.app.Protocol == DNS {
		if readDNS(&r.app, b) {
			return // each message may have something new
		}
	}
	if r.app.Protocol == DNS {
		return
	}
	if from == Client && r.readQUIC(b) != no {
		return
	}
	if from == Server && r.quic != nil {
		return
	}
	if r.fed[Client]+r.fed[Server] >= 4 || r.app.Protocol != "" {
		r.finish()
	}
}

// shortened is a name with a sane length and without anything that could do
// harm where it is shown; empty where it is none.
func shortened(name string) string {
	if len(name) > maxName {
		name = name[:maxName]
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] >= 0x7f {
			return ""
		}
	}
	return name
}
