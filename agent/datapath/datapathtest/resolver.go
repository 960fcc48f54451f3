package datapathtest

import (
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// OutsideName is the name that every endpoint, asked as a resolver, knows: that of
// the endpoint outside.
const OutsideName = "www.outside.example"

// resolve answers a DNS query; what is none comes back as it is.
func resolve(raw []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(raw)
	if err != nil || h.Response {
		return raw
	}
	q, err := p.Question()
	if err != nil {
		return raw
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: h.ID, Response: true})
	if b.StartQuestions() != nil || b.Question(q) != nil || b.StartAnswers() != nil {
		return raw
	}
	if q.Name.String() == OutsideName+"." {
		b.AResource(dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}, dnsmessage.AResource{A: netip.MustParseAddr("10.77.0.2").As4()})
	}
	out, err := b.Finish()
	if err != nil {
		return raw
	}
	return out
}

// ask looks a name up at a resolver.
func ask(name, resolver string, timeout time.Duration) error {
	c, err := net.DialTimeout("udp", resolver, timeout)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 7, RecursionDesired: true})
	n, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return err
	}
	if err := b.StartQuestions(); err != nil {
		return err
	}
	if err := b.Question(dnsmessage.Question{Name: n, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}); err != nil {
		return err
	}
	raw, err := b.Finish()
	if err != nil {
		return err
	}
	if _, err := c.Write(raw); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 512))
	return err
}
