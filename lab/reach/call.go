package reach

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// askAgain is how often a datagram is sent that may have been lost.
const askAgain = 200 * time.Millisecond

// call tries a target once and says what it was like.
func call(ctx context.Context, o order) (Verdict, string) {
	var err error
	switch o.Service.Protocol {
	case "tcp":
		err = callTCP(ctx, o)
	case "udp":
		err = callUDP(ctx, o)
	default:
		err = ping(ctx, o.Target)
	}
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil:
		return Allow, ""
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EHOSTUNREACH),
		errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES), errors.Is(err, errUnreachable):
		return Reject, err.Error()
	case errors.As(err, &timeout) && timeout.Timeout():
		return Deny, "no answer"
	case errors.Is(err, syscall.EPERM):
		return Deny, "not let send"
	}
	return Deny, err.Error()
}

func callTCP(ctx context.Context, o order) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", o.Target)
	if err != nil {
		return err
	}
	defer c.Close()
	c.(*net.TCPConn).SetLinger(0) //nolint:errcheck // leaves no TIME_WAIT behind where it can
	if o.Silent {
		return nil
	}
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline) //nolint:errcheck // a fresh socket
	return echoed(c, func() error { return nil })
}

func callUDP(ctx context.Context, o order) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "udp4", o.Target)
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		c.SetDeadline(time.Now().Add(askAgain)) //nolint:errcheck // a fresh socket
		err := echoed(c, ctx.Err)
		var timeout net.Error
		if errors.Is(err, syscall.EPERM) || !errors.As(err, &timeout) || !timeout.Timeout() {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// echoed sends a few bytes and waits for them to come back.
func echoed(c net.Conn, stop func() error) error {
	if err := stop(); err != nil {
		return err
	}
	sent := fmt.Sprintf("%08x", rand.Uint32())
	if _, err := c.Write([]byte(sent)); err != nil {
		return err
	}
	buf := make([]byte, len(sent))
	for at := 0; at < len(buf); {
		n, err := c.Read(buf[at:])
		if err != nil {
			return err
		}
		at += n
	}
	if string(buf) != sent {
		return fmt.Errorf("sent %q, got %q", sent, buf)
	}
	return nil
}

var errUnreachable = errors.New("a router or the target said it cannot be reached")

// ping asks for an echo. It needs the right to a raw socket.
func ping(ctx context.Context, target string) error {
	addr, err := netip.ParseAddr(target)
	if err != nil {
		return err
	}
	c, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return err
	}
	defer c.Close()
	body := icmp.Echo{ID: int(rand.Uint32() & 0xffff), Data: binary.BigEndian.AppendUint64(nil, rand.Uint64())}
	for {
		body.Seq++
		packet, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &body}).Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(packet, &net.IPAddr{IP: addr.AsSlice()}); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(askAgain)) //nolint:errcheck // a fresh socket
		if err := answered(c, body.ID); !errors.Is(err, errNotYet) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

var errNotYet = errors.New("no answer yet")

// answered reads until something is about the echo of that id. A raw socket
// hears everybody's.
func answered(c *icmp.PacketConn, id int) error {
	buf := make([]byte, 1500)
	for {
		n, _, err := c.ReadFrom(buf)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return errNotYet
		}
		if err != nil {
			return err
		}
		m, err := icmp.ParseMessage(1, buf[:n])
		if err != nil {
			continue
		}
		switch b := m.Body.(type) {
		case *icmp.Echo:
			if m.Type == ipv4.ICMPTypeEchoReply && b.ID == id {
				return nil
			}
		case *icmp.DstUnreach:
			if h, err := ipv4.ParseHeader(b.Data); err == nil && len(b.Data) >= h.Len+6 && int(binary.BigEndian.Uint16(b.Data[h.Len+4:])) == id {
				return errUnreachable
			}
		}
	}
}
