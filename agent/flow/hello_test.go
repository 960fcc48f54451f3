package flow

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"weft/agent/connection"
	"weft/wire/flowwire"
)

const request = "GET /orders/4711?token=secret HTTP/1.1\r\nHost: shop.example.com\r\n\r\n"

// say makes a piece of what the connection of a port begins with.
func say(port uint16, seq int, called bool, text string) *connection.Hello {
	c := crowd(1)[0]
	c.Local = netip.AddrPortFrom(c.Local.Addr(), port)
	return &connection.Hello{Key: c.Key, Began: c.Began, When: time.Now(), Seq: uint32(seq), Called: called, Bytes: []byte(text)}
}

func (h *hellos) of(x *connection.Hello) flowwire.Record {
	r := flowwire.Record{Local: x.Local, Remote: x.Remote, Protocol: x.Protocol, NetNS: x.NetNS, Egress: true}
	h.name(newKey(x.Local, x.Remote, x.Protocol, x.NetNS, x.Began, false), false, &r)
	return r
}

func TestPiecesMayComeAgainAndMayBeMissing(t *testing.T) {
	want := flowwire.Application{Protocol: "http", Host: "shop.example.com", Method: "GET", Path: "/orders/{id}", Status: 204}
	answer := say(1, 900, true, "HTTP/1.1 204 No Content\r\n\r\n")
	for name, pieces := range map[string][]*connection.Hello{
		"whole":          {say(1, 100, false, request), answer},
		"in two":         {say(1, 100, false, request[:10]), say(1, 110, false, request[10:]), answer},
		"again":          {say(1, 100, false, request[:10]), say(1, 100, false, request[:10]), say(1, 105, false, request[5:]), answer},
		"over the limit": {say(1, -10, false, request[:10]), say(1, 0, false, request[10:]), answer},
	} {
		var h hellos
		for _, x := range pieces {
			h.hear(x)
		}
		if got := h.of(answer); got.Application != want {
			t.Errorf("%s: %+v", name, got.Application)
		}
	}
	var h hellos
	h.hear(say(1, 100, false, request[:10]))
	h.hear(say(1, 111, false, request[11:]))
	if got := h.of(answer); got.Application.Host != "" {
		t.Errorf("with a byte missing: %+v", got.Application)
	}
}

// The first record of a connection says what it is used for, also where its first
// bytes come later than the table is read.
func TestTheFirstRecordWaitsForItsApplication(t *testing.T) {
	f := openFlow(t, t.TempDir(), time.Hour)
	var controller taken
	line := crowd(1)[0]
	show := func() int {
		t.Helper()
		f.Begin()
		f.See(&line)
		if err := f.End(true); err != nil {
			t.Fatal(err)
		}
		controller.take(t, f)
		return controller.number
	}
	x := say(line.Local.Port(), 0, false, request[:20])
	f.Hear(x)
	if n := show(); n != 0 {
		t.Errorf("%d batches while half a request was heard", n)
	}
	f.Hear(say(line.Local.Port(), 20, false, request[20:]))
	f.Hear(say(line.Local.Port(), 0, true, "HTTP/1.1 200 OK\r\n\r\n"))
	if n := show(); n != 1 {
		t.Errorf("%d batches after it", n)
	}
	other := crowd(2)[1]
	f.Hear(&connection.Hello{Key: other.Key, Began: other.Began, When: time.Now(), Bytes: []byte(request[:20])})
	line = other
	line.First = time.Now().Add(-settleTime - time.Second)
	if n := show(); n != 2 {
		t.Errorf("%d batches; one that says no more is not waited for", n)
	}
}

// However many begin and say half a sentence, what is kept is bounded.
func TestAFloodOfHellos(t *testing.T) {
	var h hellos
	for i := range 4 * maxHeard {
		x := say(uint16(i), 0, false, request[:20])
		x.NetNS = uint64(i)
		h.hear(x)
	}
	listening := 0
	for _, m := range []map[key]*hello{h.heard.now, h.heard.before} {
		for _, c := range m {
			if c.recogniser != nil {
				listening++
			}
		}
	}
	if n := len(h.heard.now) + len(h.heard.before); n > 2*maxHeard || listening > maxOpen {
		t.Errorf("%d are known, of which %d are listened to", n, listening)
	}
	for i := range 4 * maxNamed {
		h.names.put(place{uint64(i), netip.Addr{}}, fmt.Sprint(i), maxNamed)
	}
	if n := len(h.names.now) + len(h.names.before); n > 2*maxNamed {
		t.Errorf("%d names", n)
	}
}

// What an address was looked up by is known where the answer was seen.
func TestNamesOfAnswers(t *testing.T) {
	var h hellos
	x := say(1, 0, true, "\x00\x01\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x04shop\x07example\x00\x00\x01\x00\x01\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x09")
	x.Protocol, x.Remote = 17, netip.MustParseAddrPort("10.0.0.53:53")
	h.hear(x)
	y := say(2, 0, false, "")
	y.Remote = netip.MustParseAddrPort("10.0.0.9:5432")
	if got := h.of(y); got.Name != "shop.example" {
		t.Errorf("%q", got.Name)
	}
	y.NetNS++
	if got := h.of(y); got.Name != "" {
		t.Errorf("in another network: %q", got.Name)
	}
}
