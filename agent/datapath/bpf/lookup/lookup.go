// Package lookup reads what the answers of resolvers say, and remembers it: which
// addresses a workload was told for which names.
package lookup

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Bounds, so that a resolver cannot fill a machine.
const (
	maxRecords   = 128  // of one answer
	maxAddresses = 4096 // of one workload
	maxNames     = 16   // of one address
)

// Keep is how long at least an address keeps its names after it was last looked
// up: programs hold on to addresses far longer than a record says they may.
const Keep = time.Hour

// Read returns the addresses in an answer (RFC 1035) and the names that lead to
// them: the one asked for, and those of the aliases on the way.
func Read(message []byte) (names []string, addresses []netip.Addr, err error) {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil {
		return nil, nil, fmt.Errorf("read a resolver's answer: %w", err)
	}
	if !h.Response || h.RCode != dnsmessage.RCodeSuccess {
		return nil, nil, nil
	}
	q, err := p.Question()
	if err != nil {
		return nil, nil, fmt.Errorf("read a resolver's question: %w", err)
	}
	if err := p.SkipAllQuestions(); err != nil {
		return nil, nil, fmt.Errorf("read a resolver's questions: %w", err)
	}
	names = []string{clean(q.Name)}
	for range maxRecords {
		r, err := p.AnswerHeader()
		if err == dnsmessage.ErrSectionDone {
			return names, addresses, nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read a resolver's record: %w", err)
		}
		// A record counts where a name on the way leads to it; answers bring the
		// aliases in their order.
		follows := r.Class == dnsmessage.ClassINET && slices.Contains(names, clean(r.Name))
		switch {
		case follows && r.Type == dnsmessage.TypeCNAME:
			var c dnsmessage.CNAMEResource
			if c, err = p.CNAMEResource(); err == nil {
				names = append(names, clean(c.CNAME))
			}
		case follows && r.Type == dnsmessage.TypeA:
			var a dnsmessage.AResource
			if a, err = p.AResource(); err == nil {
				addresses = append(addresses, netip.AddrFrom4(a.A))
			}
		case follows && r.Type == dnsmessage.TypeAAAA:
			var a dnsmessage.AAAAResource
			if a, err = p.AAAAResource(); err == nil {
				addresses = append(addresses, netip.AddrFrom16(a.AAAA).Unmap())
			}
		default:
			err = p.SkipAnswer()
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read a resolver's record: %w", err)
		}
	}
	return names, addresses, nil
}

func clean(n dnsmessage.Name) string {
	return strings.ToLower(strings.TrimSuffix(n.String(), "."))
}

// Book remembers names by workload and address. Not safe for concurrent use.
type Book map[string]map[netip.Addr]*Entry

// Entry is what an address was looked up by.
type Entry struct {
	Names []string  `json:"names"`
	Until time.Time `json:"until"`
}

// Note adds what a workload was told, and says whether anything is new.
func (b Book) Note(workload string, names []string, addresses []netip.Addr, now time.Time) (changed bool) {
	for _, a := range addresses {
		book := b[workload]
		if book == nil {
			book = map[netip.Addr]*Entry{}
			b[workload] = book
		}
		e := book[a]
		if e == nil {
			if len(book) >= maxAddresses {
				forget(book, now)
			}
			e = &Entry{}
			book[a] = e
		}
		for _, n := range names {
			if !slices.Contains(e.Names, n) && len(e.Names) < maxNames {
				e.Names = append(e.Names, n)
				changed = true
			}
		}
		e.Until = now.Add(Keep)
	}
	return changed
}

// forget takes out what has had its time; where nothing has, what is nearest to it.
func forget(book map[netip.Addr]*Entry, now time.Time) {
	var oldest netip.Addr
	for a, e := range book {
		if e.Until.Before(now) {
			delete(book, a)
		} else if !oldest.IsValid() || e.Until.Before(book[oldest].Until) {
			oldest = a
		}
	}
	if len(book) >= maxAddresses {
		delete(book, oldest)
	}
}

// Expire takes out what has had its time.
func (b Book) Expire(now time.Time) {
	for workload, book := range b {
		for a, e := range book {
			if e.Until.Before(now) {
				delete(book, a)
			}
		}
		if len(book) == 0 {
			delete(b, workload)
		}
	}
}
