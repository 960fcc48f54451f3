package reach

import (
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/net/ipv4"
)

// listen answers whatever comes with the same bytes, until it is closed. The
// kernel itself answers echo requests.
func listen(s Service) (io.Closer, error) {
	address := fmt.Sprintf(":%d", s.Port)
	switch s.Protocol {
	case "udp":
		c, err := net.ListenPacket("udp4", address)
		if err != nil {
			return nil, err
		}
		p := ipv4.NewPacketConn(c)
		if err := p.SetControlMessage(ipv4.FlagDst, true); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		go echoPackets(p)
		return c, nil
	case "tcp":
		l, err := net.Listen("tcp4", address)
		if err != nil {
			return nil, err
		}
		go echoConnections(l)
		return l, nil
	}
	return io.NopCloser(nil), nil
}

// echoPackets answers from the address that was asked: a host has several, and
// the nearest to the caller need not be the one it called.
func echoPackets(p *ipv4.PacketConn) {
	buf := make([]byte, 2048)
	for {
		n, asked, from, err := p.ReadFrom(buf)
		if err != nil {
			return
		}
		answer := &ipv4.ControlMessage{}
		if asked != nil {
			answer.Src = asked.Dst
		}
		p.WriteTo(buf[:n], answer, from) //nolint:errcheck // a lost answer is asked for again
	}
}

func echoConnections(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c) //nolint:errcheck // the caller sees what came
		}()
	}
}
