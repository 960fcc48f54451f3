package lookup

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func answer(t testing.TB, build func(*dnsmessage.Builder)) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{Response: true})
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		t.Fatal(err)
	}
	if err := b.Question(dnsmessage.Question{Name: name("WWW.Example.org."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}); err != nil {
		t.Fatal(err)
	}
	if err := b.StartAnswers(); err != nil {
		t.Fatal(err)
	}
	build(&b)
	out, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func name(s string) dnsmessage.Name { return dnsmessage.MustNewName(s) }

func header(s string) dnsmessage.ResourceHeader {
	return dnsmessage.ResourceHeader{Name: name(s), Class: dnsmessage.ClassINET, TTL: 1}
}

func aliased(b *dnsmessage.Builder) {
	b.CNAMEResource(header("www.example.org."), dnsmessage.CNAMEResource{CNAME: name("edge.cdn.example.")})
	b.AResource(header("edge.cdn.example."), dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}})
	b.AAAAResource(header("edge.cdn.example."), dnsmessage.AAAAResource{AAAA: [16]byte{0x20, 1, 15: 7}})
	// A record nobody asked for: an answer may not name others.
	b.AResource(header("bank.example."), dnsmessage.AResource{A: [4]byte{192, 0, 2, 66}})
}

func TestAliasesLeadToAddresses(t *testing.T) {
	names, addresses, err := Read(answer(t, aliased))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"www.example.org", "edge.cdn.example"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	if want := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001::7")}; !slices.Equal(addresses, want) {
		t.Errorf("got %v, want %v", addresses, want)
	}
}

func TestBookIsBounded(t *testing.T) {
	b, now := Book{}, time.Now()
	for i := range maxAddresses + 100 {
		b.Note("web", []string{"a.example"}, []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}, now.Add(time.Duration(i)*time.Second))
	}
	if n := len(b["web"]); n > maxAddresses {
		t.Errorf("%d addresses", n)
	}
	if b["web"][netip.AddrFrom4([4]byte{10, 0, 0, 0})] != nil {
		t.Error("the oldest is still there")
	}
	b.Expire(now.Add(2 * (maxAddresses + 100) * time.Second).Add(Keep))
	if len(b) != 0 {
		t.Errorf("%d workloads after all time", len(b))
	}
}

func FuzzRead(f *testing.F) {
	f.Add(answer(f, aliased))
	f.Fuzz(func(t *testing.T, raw []byte) {
		names, addresses, err := Read(raw)
		if err != nil && len(names)+len(addresses) > 0 {
			t.Error("names of an answer that does not parse")
		}
		if len(addresses) > maxRecords {
			t.Errorf("%d addresses", len(addresses))
		}
	})
}
