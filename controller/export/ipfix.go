package export

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"weft/controller/endpoint"
	"weft/controller/flowstore"
)

// IPFIX sends flows to a collector as biflows (RFC 7011, RFC 5103).
type IPFIX struct {
	// Address is the collector's HOST:PORT; IANA's port is 4739.
	Address string `yaml:"address"`
	// Transport is udp or tcp; udp unless given. Over udp nobody says what is lost on
	// the way.
	Transport string `yaml:"transport,omitempty"`
	// TLS and CAFile, which implies it, encrypt; over tcp.
	TLS    bool   `yaml:"tls,omitempty"`
	CAFile string `yaml:"caFile,omitempty"`
	// Domain is the observation domain; 1 unless given.
	Domain uint32 `yaml:"domain,omitempty"`
	// MTU is that of the path, for udp; 1280 unless given, which every path with IPv6
	// has.
	MTU int `yaml:"mtu,omitempty"`
	// Enterprise is a private enterprise number of yours, under which what IANA has no
	// elements for is sent: see enterpriseElements. Unless given it is left out.
	Enterprise uint32 `yaml:"enterprise,omitempty"`
}

const (
	minMTU = 1280
	maxMTU = 65535
	// headers are those of IPv6 and UDP.
	headers = 48
	// templatesEach is how often templates are sent again over UDP, where the collector
	// may have begun anew, or may not have got them.
	templatesEach = time.Minute
	// tcpMessage is how large a message over TCP is; its length has 16 bits.
	tcpMessage = 16 << 10
)

func (x *IPFIX) check() error {
	var errs []error
	if err := hostPort(x.Address); err != nil {
		errs = append(errs, fmt.Errorf("address: %w", err))
	}
	if x.Transport != "" && x.Transport != "udp" && x.Transport != "tcp" {
		errs = append(errs, fmt.Errorf("transport: %q is none of udp, tcp", x.Transport))
	}
	if (x.TLS || x.CAFile != "") && x.Transport != "tcp" {
		errs = append(errs, errors.New("tls, caFile: they go with transport: tcp"))
	}
	if _, err := endpoint.Authorities(x.CAFile); err != nil {
		errs = append(errs, err)
	}
	if x.MTU != 0 && (x.MTU < minMTU || x.MTU > maxMTU) {
		errs = append(errs, fmt.Errorf("mtu: want %d to %d", minMTU, maxMTU))
	}
	if x.Enterprise == reversePEN {
		errs = append(errs, fmt.Errorf("enterprise: %d is that of reverse elements; take one of yours (https://www.iana.org/assignments/enterprise-numbers)", reversePEN))
	}
	return errors.Join(errs...)
}

func (x *IPFIX) sender(Deps) (sender, error) {
	s := &exporting{cfg: *x, size: tcpMessage}
	if s.cfg.Domain == 0 {
		s.cfg.Domain = 1
	}
	if s.cfg.Transport == "" {
		s.cfg.Transport = "udp"
	}
	if s.cfg.Transport == "udp" {
		if s.cfg.MTU == 0 {
			s.cfg.MTU = minMTU
		}
		s.size = s.cfg.MTU - headers
	}
	if x.TLS || x.CAFile != "" {
		pool, err := endpoint.Authorities(x.CAFile)
		if err != nil {
			return nil, err
		}
		s.tls = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	s.templates = [2]template{templateOf(idIPv4, x.Enterprise), templateOf(idIPv6, x.Enterprise)}
	return s, nil
}

// exporting is an Exporting Process with one transport session.
type exporting struct {
	cfg       IPFIX
	tls       *tls.Config
	size      int // of a message, at most
	templates [2]template

	conn     net.Conn
	gone     chan struct{} // closed when the collector has ended the session
	sequence uint32        // data records before the next message
	said     time.Time     // when templates were sent last
	message  []byte
}

func (s *exporting) send(ctx context.Context, flows []flowstore.Flow) (n int, err error) {
	if s.conn != nil {
		select {
		case <-s.gone:
			s.close()
		default:
		}
	}
	if s.conn == nil {
		if err := s.dial(ctx); err != nil {
			return 0, err
		}
	}
	stop := until(ctx, s.conn)
	defer stop()
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.said.IsZero() || s.cfg.Transport == "udp" && time.Since(s.said) >= templatesEach {
		s.message = appendTemplates(s.begin(), s.templates[:])
		if err := s.flush(0); err != nil {
			return 0, err
		}
		s.said = time.Now()
	}
	for n < len(flows) {
		records := s.fill(flows[n:])
		if err := s.flush(records); err != nil {
			return n, err
		}
		n += records
	}
	return n, nil
}

// dial begins a session: sequence numbers and templates are its own.
func (s *exporting) dial(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var conn net.Conn
	var err error
	if s.tls != nil {
		conn, err = (&tls.Dialer{Config: s.tls}).DialContext(ctx, "tcp", s.cfg.Address)
	} else {
		conn, err = (&net.Dialer{}).DialContext(ctx, s.cfg.Transport, s.cfg.Address)
	}
	if err != nil {
		return fmt.Errorf("reach the collector: %w", err)
	}
	s.conn, s.gone, s.sequence, s.said = conn, make(chan struct{}), 0, time.Time{}
	go func(gone chan struct{}) {
		defer close(gone)
		// A collector says nothing; what ends is the session.
		for b := make([]byte, 512); ; {
			if _, err := conn.Read(b); err != nil && !errors.Is(err, io.ErrNoProgress) {
				return
			}
		}
	}(s.gone)
	return nil
}

// begin begins a message; flush puts its length and time in.
func (s *exporting) begin() []byte {
	return append(s.message[:0], make([]byte, messageHeader)...)
}

// fill makes a message of as many flows, from the first on, as fit and are of one
// template, and says how many those are.
func (s *exporting) fill(flows []flowstore.Flow) int {
	t := &s.templates[templateIndex(&flows[0])]
	s.message = s.begin()
	start := len(s.message)
	s.message = append(s.message, make([]byte, setHeader)...)
	n := 0
	for n < len(flows) && &s.templates[templateIndex(&flows[n])] == t {
		before := len(s.message)
		if s.message = t.appendRecord(s.message, &flows[n]); len(s.message) > s.size && n > 0 {
			s.message = s.message[:before]
			break
		}
		n++
	}
	putSet(s.message[start:], t.id)
	return n
}

func (s *exporting) flush(records int) error {
	putMessage(s.message, time.Now(), s.sequence, s.cfg.Domain)
	if _, err := s.conn.Write(s.message); err != nil {
		return fmt.Errorf("send to the collector: %w", err)
	}
	s.sequence += uint32(records) //nolint:gosec // of one page, modulo 2^32
	return nil
}

func (s *exporting) close() {
	if s.conn != nil {
		s.conn.Close()
		<-s.gone
		s.conn = nil
	}
}
