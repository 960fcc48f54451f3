package probe

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"weft/model"
)

// newAsker returns what makes askers of a target that has been checked.
func newAsker(ctx context.Context, s *Spec) (func() (asker, error), error) {
	switch s.Kind {
	case model.ProbeHTTP:
		statuses, err := model.ParseStatuses(s.Expect)
		if err != nil {
			return nil, err
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.Proxy, transport.DisableCompression = nil, true // it is this service that is asked, and its own bytes are counted
		transport.MaxIdleConns, transport.MaxIdleConnsPerHost = s.Concurrency, s.Concurrency
		// A server that means ill fills no memory.
		transport.MaxResponseHeaderBytes = 64 << 10
		transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 256 << 10, MaxReceiveBufferPerConnection: 4 << 20}
		client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		most := int64(maxAnswer)
		if s.Budget != nil {
			most = model.MaxProbeAnswer
		}
		return func() (asker, error) { return &httpAsker{client, s.Target, statuses, most}, nil }, nil
	case model.ProbeTCP:
		return func() (asker, error) { return tcpAsker{s.Target}, nil }, nil
	case model.ProbeDNS:
		name, server, err := model.SplitProbeDNS(s.Target)
		if err != nil {
			return nil, err
		}
		n, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
		if err != nil {
			return nil, fmt.Errorf("%q is no name of DNS", name)
		}
		return func() (asker, error) {
			a := &dnsAsker{name: n, server: server, buf: make([]byte, 64<<10)}
			a.dial(ctx)
			return a, nil
		}, nil
	case model.ProbeICMP:
		// Once for all who ask, and before the first question is timed.
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", s.Target)
		if err == nil && len(found) == 0 {
			err = &net.DNSError{Err: "no address", Name: s.Target, IsNotFound: true}
		}
		if err != nil {
			return func() (asker, error) { return nowhere{err}, nil }, nil
		}
		return func() (asker, error) { return newEcho(found[0].Unmap()) }, nil
	}
	return nil, fmt.Errorf("%q is none of http, tcp, dns, icmp", s.Kind)
}

type httpAsker struct {
	client   *http.Client
	url      string
	statuses model.Statuses
	most     int64 // bytes read of an answer
}

func (a *httpAsker) ask(ctx context.Context) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, a.most))
	if err == nil && !a.statuses.Has(resp.StatusCode) {
		err = errKind(fmt.Sprintf("status %d", resp.StatusCode))
	}
	return n, err
}

func (a *httpAsker) close() { a.client.CloseIdleConnections() }

type tcpAsker struct{ target string }

func (a tcpAsker) ask(ctx context.Context) (int64, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", a.target)
	if err != nil {
		return 0, err
	}
	return 0, conn.Close()
}

func (tcpAsker) close() {}

type dnsAsker struct {
	name   dnsmessage.Name
	server string
	conn   net.Conn
	err    error // the server has no address
	buf    []byte
}

// dial finds the server, before the first question is timed.
func (a *dnsAsker) dial(ctx context.Context) {
	var d net.Dialer
	a.conn, a.err = d.DialContext(ctx, "udp", a.server)
}

func (a *dnsAsker) ask(ctx context.Context) (int64, error) {
	if a.err != nil {
		return 0, a.err
	}
	var id [2]byte
	rand.Read(id[:])
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: binary.BigEndian.Uint16(id[:]), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: a.name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	out, err := q.Pack()
	if err != nil {
		return 0, err
	}
	release, err := until(ctx, a.conn)
	if err != nil {
		return 0, err
	}
	defer release()
	if _, err := a.conn.Write(out); err != nil {
		return 0, err
	}
	for {
		n, err := a.conn.Read(a.buf)
		if err != nil {
			return 0, err
		}
		var p dnsmessage.Parser
		h, err := p.Start(a.buf[:n])
		if err != nil || h.ID != q.ID || !h.Response {
			continue // of an earlier question, or nobody's
		}
		if h.RCode != dnsmessage.RCodeSuccess {
			return 0, errKind(strings.TrimPrefix(h.RCode.String(), "RCode"))
		}
		return int64(n), nil
	}
}

// until ends what waits at a connection when ctx does. release must be called before
// the connection is used for something else.
func until(ctx context.Context, conn interface{ SetDeadline(time.Time) error }) (release func(), err error) {
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		conn.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // it could be set before
		close(over)
	})
	return func() {
		if !stop() {
			<-over
		}
	}, nil
}

func (a *dnsAsker) close() {
	if a.conn != nil {
		a.conn.Close()
	}
}

// nowhere is a machine that has no address.
type nowhere struct{ err error }

func (a nowhere) ask(context.Context) (int64, error) { return 0, a.err }

func (nowhere) close() {}

// echo asks by ICMP: through the kernel's own ping socket, or a raw one where that
// is not allowed.
type echo struct {
	conn  *icmp.PacketConn
	to    net.Addr
	typ   icmp.Type
	proto int
	id    int // 0: the kernel's
	seq   uint16
	buf   []byte
}

func newEcho(a netip.Addr) (*echo, error) {
	e := &echo{typ: ipv4.ICMPTypeEcho, proto: 1, buf: make([]byte, 1500)}
	ping, raw := "udp4", "ip4:icmp"
	if a.Is6() {
		e.typ, e.proto, ping, raw = ipv6.ICMPTypeEchoRequest, 58, "udp6", "ip6:ipv6-icmp"
	}
	var err error
	if e.conn, err = icmp.ListenPacket(ping, ""); err == nil {
		e.to = net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0))
		return e, nil
	}
	if e.conn, err = icmp.ListenPacket(raw, ""); err != nil {
		return nil, fmt.Errorf("open a socket for ICMP: %w; run as root, or let your group ping: sysctl net.ipv4.ping_group_range", err)
	}
	var id [2]byte
	rand.Read(id[:])
	e.to, e.id = &net.IPAddr{IP: a.AsSlice(), Zone: a.Zone()}, int(binary.BigEndian.Uint16(id[:]))|1
	return e, nil
}

func (e *echo) ask(ctx context.Context) (int64, error) {
	e.seq++
	out, err := (&icmp.Message{Type: e.typ, Body: &icmp.Echo{ID: e.id, Seq: int(e.seq), Data: make([]byte, 56)}}).Marshal(nil)
	if err != nil {
		return 0, err
	}
	release, err := until(ctx, e.conn)
	if err != nil {
		return 0, err
	}
	defer release()
	if _, err := e.conn.WriteTo(out, e.to); err != nil {
		return 0, err
	}
	for {
		n, _, err := e.conn.ReadFrom(e.buf)
		if err != nil {
			return 0, err
		}
		m, err := icmp.ParseMessage(e.proto, e.buf[:n])
		if err != nil {
			continue
		}
		reply, is := m.Body.(*icmp.Echo)
		if is && (m.Type == ipv4.ICMPTypeEchoReply || m.Type == ipv6.ICMPTypeEchoReply) && reply.Seq == int(e.seq) && (e.id == 0 || reply.ID == e.id) {
			return int64(n), nil
		}
	}
}

func (e *echo) close() { e.conn.Close() }
