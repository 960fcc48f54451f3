package application

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// maxRecords is how many records of an answer are read.
const maxRecords = 64

// readDNS reads a message: the name that it asks about, and the addresses that it
// gives. Aliases on the way are left out: whoever asked knows the name it asked by.
func readDNS(app *Application, message []byte) bool {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil || h.OpCode != 0 || len(message) < 12 || message[3]&0x40 != 0 {
		return false
	}
	// Anything may look like a header: there must be one question, and a class that
	// is the Internet's.
	if binary.BigEndian.Uint16(message[4:]) != 1 || binary.BigEndian.Uint16(message[6:]) > 256 {
		return false
	}
	q, err := p.Question()
	if err != nil || q.Class&0x7fff != dnsmessage.ClassINET && q.Class != dnsmessage.ClassANY || q.Type == 0 {
		return false
	}
	if err := p.SkipAllQuestions(); err != nil {
		return false
	}
	name := strings.ToLower(shortened(strings.TrimSuffix(q.Name.String(), ".")))
	var answers []Answer
	for range maxRecords {
		if !h.Response {
			break
		}
		a, err := p.AnswerHeader()
		if err != nil {
			break // the end, or one that is cut off
		}
		var address netip.Addr
		switch a.Type {
		case dnsmessage.TypeA:
			r, err := p.AResource()
			if err != nil {
				return false
			}
			address = netip.AddrFrom4(r.A)
		case dnsmessage.TypeAAAA:
			r, err := p.AAAAResource()
			if err != nil {
				return false
			}
			address = netip.AddrFrom16(r.AAAA)
		default:
			if err := p.SkipAnswer(); err != nil {
				return false
			}
			continue
		}
		if name != "" {
			answers = append(answers, Answer{name, address, time.Duration(a.TTL) * time.Second})
		}
	}
	if app.Protocol == "" {
		app.Protocol, app.Host = DNS, name
	}
	app.Answers = answers
	return true
}

// readDNSStream reads the messages of DNS over TCP, each with its length before.
func readDNSStream(r *Recogniser) verdict {
	for from := range r.kept {
		for len(r.kept[from]) >= 2 {
			b := r.kept[from]
			n := int(binary.BigEndian.Uint16(b))
			if n < 12 {
				return no
			}
			if len(b) < 2+n {
				if r.full[from] {
					return no
				}
				break
			}
			before := r.app.Answers
			if !readDNS(&r.app, b[2:2+n]) {
				return no
			}
			r.app.Answers = append(before, r.app.Answers...)
			r.kept[from] = append([]byte{}, b[2+n:]...)
		}
	}
	if r.app.Protocol == DNS {
		return is
	}
	if b := r.kept[Client]; len(b) >= 14 && (b[4]&0xf8 != 0 || binary.BigEndian.Uint16(b[6:]) != 1) {
		return no
	}
	return more
}
