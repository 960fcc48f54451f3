package probe

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// maxAnswer bounds what is read of one answer.
const maxAnswer = 64 << 20

// newAsker checks the target and returns what makes askers.
func newAsker(s *Spec) (func() (asker, error), error) {
	switch s.Kind {
	case HTTP:
		u, err := url.Parse(s.Target)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("%q: want http://HOST[:PORT]/PATH or https://…", s.Target)
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.Proxy, transport.DisableCompression = nil, true // it is this service that is asked, and its own bytes are counted
		transport.MaxIdleConns, transport.MaxIdleConnsPerHost = s.Concurrency, s.Concurrency
		client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		return func() (asker, error) { return &httpAsker{client, u.String()}, nil }, nil
	case TCP:
		if _, _, err := net.SplitHostPort(s.Target); err != nil {
			return nil, fmt.Errorf("%q: want HOST:PORT", s.Target)
		}
		return func() (asker, error) { return tcpAsker{s.Target}, nil }, nil
	case DNS:
		name, server, ok := strings.Cut(s.Target, "@")
		if !ok || server == "" {
			return nil, fmt.Errorf("%q: want NAME@SERVER[:PORT]", s.Target)
		}
		if _, _, err := net.SplitHostPort(server); err != nil {
			server = net.JoinHostPort(strings.Trim(server, "[]"), "53")
		}
		n, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
		if err != nil {
			return nil, fmt.Errorf("%q is no name of DNS", name)
		}
		return func() (asker, error) { return &dnsAsker{name: n, server: server, buf: make([]byte, 64<<10)}, nil }, nil
	case ICMP:
		if s.Target == "" || strings.Contains(s.Target, "/") {
			return nil, fmt.Errorf("%q: want a HOST", s.Target)
		}
		return func() (asker, error) { return newEcho(s.Target) }, nil
	}
	return nil, fmt.Errorf("%q is none of http, tcp, dns, icmp", s.Kind)
}

type httpAsker struct {
	client *http.Client
	url    string
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
	n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	if err == nil && resp.StatusCode >= 400 {
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
	buf    []byte
}

func (a *dnsAsker) ask(ctx context.Context) (int64, error) {
	if a.conn == nil {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "udp", a.server)
		if err != nil {
			return 0, err
		}
		a.conn = conn
	}
	var id [2]byte
	rand.Read(id[:])
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: binary.BigEndian.Uint16(id[:]), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: a.name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	out, err := q.Pack()
	if err != nil {
		return 0, err
	}
	deadline, _ := ctx.Deadline()
	if err := a.conn.SetDeadline(deadline); err != nil {
		return 0, err
	}
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

func (a *dnsAsker) close() {
	if a.conn != nil {
		a.conn.Close()
	}
}

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

func newEcho(host string) (asker, error) {
	found, err := net.DefaultResolver.LookupNetIP(context.Background(), "ip", host)
	if err != nil || len(found) == 0 {
		return nil, fmt.Errorf("look up %s: %w", host, err)
	}
	a := found[0].Unmap()
	e := &echo{typ: ipv4.ICMPTypeEcho, proto: 1, buf: make([]byte, 1500)}
	ping, raw := "udp4", "ip4:icmp"
	if a.Is6() {
		e.typ, e.proto, ping, raw = ipv6.ICMPTypeEchoRequest, 58, "udp6", "ip6:ipv6-icmp"
	}
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
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(time.Minute)
	}
	if err := e.conn.SetDeadline(deadline); err != nil {
		return 0, err
	}
	if _, err := e.conn.WriteTo(out, e.to); err != nil {
		return 0, err
	}
	for {
		n, _, err := e.conn.ReadFrom(e.buf)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return 0, context.DeadlineExceeded
			}
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
