package application

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// said is what was said, by the client where it begins with > and by the server
// where with <, 10 ms apart.
func said(datagrams bool, pieces ...string) Application {
	r := New(datagrams)
	var app Application
	for i, p := range pieces {
		from := Client
		if p[0] == '<' {
			from = Server
		}
		app, _ = r.Feed(from, begin.Add(time.Duration(i)*10*time.Millisecond), []byte(p[1:]))
	}
	return app
}

// hello is what Go's own client says first.
func hello(t testing.TB, name string, protocols ...string) string {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	go tls.Client(theirs, &tls.Config{ServerName: name, NextProtos: protocols}).Handshake() //nolint:errcheck // it fails when we close
	b := make([]byte, 16<<10)
	n, err := ours.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func frames(t testing.TB, server bool, fields ...string) string {
	t.Helper()
	var b, block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		if err := e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			t.Fatal(err)
		}
	}
	f := http2.NewFramer(&b, nil)
	err := f.WriteSettings()
	half := block.Len() / 2
	err = errors.Join(err, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes()[:half]}), f.WriteContinuation(1, true, block.Bytes()[half:]))
	if err != nil {
		t.Fatal(err)
	}
	if server {
		return b.String()
	}
	return http2.ClientPreface + b.String()
}

func message(t testing.TB, response bool, name string, addresses ...string) string {
	t.Helper()
	n := dnsmessage.MustNewName(name)
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 7, Response: response, RecursionDesired: true})
	b.EnableCompression()
	err := errors.Join(b.StartQuestions(), b.Question(dnsmessage.Question{Name: n, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}), b.StartAnswers())
	alias := dnsmessage.MustNewName("edge.example.net.")
	for i, text := range addresses {
		if i == 0 {
			err = errors.Join(err, b.CNAMEResource(dnsmessage.ResourceHeader{Name: n, Class: dnsmessage.ClassINET}, dnsmessage.CNAMEResource{CNAME: alias}))
		}
		h := dnsmessage.ResourceHeader{Name: alias, Class: dnsmessage.ClassINET, TTL: 60}
		if a := netip.MustParseAddr(text); a.Is4() {
			err = errors.Join(err, b.AResource(h, dnsmessage.AResource{A: a.As4()}))
		} else {
			err = errors.Join(err, b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()}))
		}
	}
	out, finish := b.Finish()
	if err = errors.Join(err, finish); err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func framed(s string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) + s
}

func TestApplications(t *testing.T) {
	h := hello(t, "shop.example.com", "h2", "http/1.1")
	long := "GET /a HTTP/1.1\r\nHost: x.example\r\nCookie: " + strings.Repeat("c", 2*maxKept)
	for name, c := range map[string]struct {
		pieces []string
		want   Application
	}{
		"tls":             {[]string{">" + h}, Application{Protocol: TLS, Host: "shop.example.com", ALPN: "h2"}},
		"tls in pieces":   {[]string{">" + h[:1], ">" + h[1:100], ">" + h[100:]}, Application{Protocol: TLS, Host: "shop.example.com", ALPN: "h2"}},
		"http":            {[]string{">GET /orders/4711?token=secret HTTP/1.1\r\nHost: Shop.example:8080\r\n\r\n", "<HTTP/1.1 404 Not Found\r\nServer: x\r\n"}, Application{Protocol: HTTP, Host: "shop.example", Method: "GET", Path: "/orders/{id}", Status: 404, Latency: 10 * time.Millisecond}},
		"http in pieces":  {[]string{">PO", ">ST /x HTTP/1.0\r\nHo", ">st: a\r\n\r\nbody", "<HTT", "<P/1.0 200 OK\r\n"}, Application{Protocol: HTTP, Host: "a", Method: "POST", Path: "/x", Status: 200, Latency: 10 * time.Millisecond}},
		"http, long head": {[]string{">" + long, "<HTTP/1.1 200 OK\r\n\r\n"}, Application{Protocol: HTTP, Host: "x.example", Method: "GET", Path: "/a", Status: 200, Latency: 10 * time.Millisecond}},
		"http connect":    {[]string{">CONNECT db.example:443 HTTP/1.1\r\n\r\n"}, Application{Protocol: HTTP, Host: "db.example", Method: "CONNECT"}},
		"http2":           {[]string{">" + frames(t, false, ":method", "GET", ":path", "/u/77?q=1", ":scheme", "http", ":authority", "h2.example"), "<" + frames(t, true, ":status", "204")}, Application{Protocol: HTTP2, Host: "h2.example", Method: "GET", Path: "/u/{id}", Status: 204, Latency: 10 * time.Millisecond}},
		"grpc":            {[]string{">" + frames(t, false, ":method", "POST", ":path", "/shop.Orders/List", ":scheme", "http", ":authority", "h", "content-type", "application/grpc+proto")}, Application{Protocol: GRPC, Host: "h", Method: "POST", Path: "/shop.Orders/List"}},
		"ssh":             {[]string{"<SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"}, Application{Protocol: SSH, Software: "OpenSSH_9.2p1"}},
		"ssh, client":     {[]string{">SSH-2.0-Go\r\n", "<SSH-2.0-dropbear\r\n"}, Application{Protocol: SSH, Software: "dropbear"}},
		"postgresql":      {[]string{">\x00\x00\x00\x29\x00\x03\x00\x00user\x00app\x00database\x00orders\x00\x00"}, Application{Protocol: PostgreSQL}},
		"postgresql, ssl": {[]string{">\x00\x00\x00\x08\x04\xd2\x16\x2f"}, Application{Protocol: PostgreSQL}},
		"mysql":           {[]string{"<\x4a\x00\x00\x00\x0a8.0.36-28\x00\x08\x00\x00\x00abcdefgh\x00"}, Application{Protocol: MySQL, Software: "8.0.36-28"}},
		"redis":           {[]string{">*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"}, Application{Protocol: Redis}},
		"kafka":           {[]string{">\x00\x00\x00\x11\x00\x12\x00\x03\x00\x00\x00\x05\x00\x07console", "<\x00\x00\x00\x20\x00\x00\x00\x05\x00\x00"}, Application{Protocol: Kafka}},
		"kafka, another":  {[]string{">\x00\x00\x00\x11\x00\x12\x00\x03\x00\x00\x00\x05\x00\x07console", "<\x00\x00\x00\x20\x00\x00\x00\x06\x00\x00"}, Application{}},
		"dns":             {[]string{">" + framed(message(t, false, "Db.example.com.")), "<" + framed(message(t, true, "db.example.com.", "192.0.2.7"))}, Application{Protocol: DNS, Host: "db.example.com", Answers: []Answer{{"db.example.com", netip.MustParseAddr("192.0.2.7"), time.Minute}}}},
		"noise":           {[]string{">\x7f\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"}, Application{}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := said(false, c.pieces...); !same(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func same(a, b Application) bool {
	ok := len(a.Answers) == len(b.Answers)
	for i := range a.Answers {
		ok = ok && i < len(b.Answers) && a.Answers[i] == b.Answers[i]
	}
	a.Answers, b.Answers = nil, nil
	return ok && a.Protocol == b.Protocol && a.Host == b.Host && a.ALPN == b.ALPN && a.Method == b.Method && a.Path == b.Path && a.Status == b.Status && a.Latency == b.Latency && a.Software == b.Software
}

func TestDatagramsOfDNS(t *testing.T) {
	r := New(true)
	if app, done := r.Feed(Client, begin, []byte(message(t, false, "a.example."))); app.Protocol != DNS || app.Host != "a.example" || done || app.Answers != nil {
		t.Errorf("%+v", app)
	}
	for _, name := range []string{"a.example.", "b.example."} { // a resolver answers many questions at one port
		app, done := r.Feed(Server, begin, []byte(message(t, true, name, "192.0.2.1", "2001:db8::1")))
		if done || len(app.Answers) != 2 || app.Answers[1] != (Answer{strings.TrimSuffix(name, "."), netip.MustParseAddr("2001:db8::1"), time.Minute}) {
			t.Errorf("%+v", app)
		}
	}
}

// seal makes an Initial packet that carries pieces of a handshake.
func seal(t testing.TB, v uint32, destination string, number byte, frames []byte) []byte {
	t.Helper()
	k, err := clientKeys(versions[v], []byte(destination))
	if err != nil {
		t.Fatal(err)
	}
	if len(frames) < 1100 {
		frames = append(frames, make([]byte, 1100-len(frames))...)
	}
	header := binary.BigEndian.AppendUint32([]byte{0xc0 | versions[v].initial<<4}, v)
	header = append(append(header, byte(len(destination))), destination...)
	header = append(header, 0, 0) // no source, no token
	header = binary.BigEndian.AppendUint16(header, uint16(0x4000|(1+len(frames)+k.aead.Overhead())))
	at := len(header)
	header = append(header, number)
	nonce := append([]byte{}, k.iv...)
	nonce[len(nonce)-1] ^= number
	out := k.aead.Seal(header, nonce, frames, header)
	var mask [16]byte
	k.header.Encrypt(mask[:], out[at+4:at+20])
	out[0] ^= mask[0] & 0x0f
	out[at] ^= mask[1]
	return out
}

func cryptoFrame(offset int, b string) []byte {
	out := binary.BigEndian.AppendUint16([]byte{6}, uint16(0x4000|offset))
	return append(binary.BigEndian.AppendUint16(out, uint16(0x4000|len(b))), b...)
}

// quicHello is the handshake as Go's own QUIC client begins it.
func quicHello(t testing.TB, name string) string {
	t.Helper()
	q := tls.QUICClient(&tls.QUICConfig{TLSConfig: &tls.Config{ServerName: name, NextProtos: []string{"h3"}, MinVersion: tls.VersionTLS13}})
	q.SetTransportParameters([]byte{1, 2, 3})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := q.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	for {
		switch e := q.NextEvent(); e.Kind {
		case tls.QUICWriteData:
			return string(e.Data)
		case tls.QUICNoEvent:
			t.Fatal("nothing was said")
		}
	}
}

func TestQUIC(t *testing.T) {
	h := quicHello(t, "video.example.com")
	want := Application{Protocol: QUIC, Host: "video.example.com", ALPN: "h3"}
	for _, v := range []uint32{1, 0x6b3343cf, 0xff00001d} {
		one := seal(t, v, "12345678", 0, append(append([]byte{1, 2, 0, 0, 0, 0}, cryptoFrame(100, h[100:])...), cryptoFrame(0, h[:100])...))
		if got := said(true, ">"+string(one)); !same(got, want) {
			t.Errorf("version %x: %+v", v, got)
		}
	}
	// Over two datagrams, and the second first.
	first, second := seal(t, 1, "12345678", 0, cryptoFrame(0, h[:700])), seal(t, 1, "12345678", 1, cryptoFrame(700, h[700:]))
	for _, order := range [][2][]byte{{first, second}, {second, first}} {
		if got := said(true, ">"+string(order[0]), ">"+string(order[1])); !same(got, want) {
			t.Errorf("two datagrams: %+v", got)
		}
	}
	first[len(first)-1]++
	if got := said(true, ">"+string(first)); got.Protocol != "" {
		t.Errorf("not authentic: %+v", got)
	}
}

// The keys of RFC 9001, A.1.
func TestQUICKeys(t *testing.T) {
	destination, _ := hex.DecodeString("8394c8f03e515708")
	k, err := clientKeys(versions[1], destination)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(k.iv); got != "fa044b2f42a3fd3b46fb255c" {
		t.Errorf("iv %s", got)
	}
	// A.2: the sample of the client's first packet and its mask.
	sample, _ := hex.DecodeString("d1b1c98dd7689fb8ec11d242b123dc9b")
	var mask [16]byte
	k.header.Encrypt(mask[:], sample)
	if got := hex.EncodeToString(mask[:5]); got != "437b9aec36" {
		t.Errorf("mask %s", got)
	}
}

func TestPathTemplate(t *testing.T) {
	for path, want := range map[string]string{
		"":                         "/",
		"/":                        "/",
		"/api/v1/orders":           "/api/v1/orders",
		"/api/v1/orders/17/items/": "/api/v1/orders/{id}/items/",
		"/u/1b4e28ba-2fa1-11d2-883f-0016d3cca427": "/u/{id}",
		"/blob/da39a3ee5e6b4b0d3255bfef95601890":  "/blob/{id}",
		"/t/eyJhbGciOiJIUzI1NiJ9":                 "/t/{id}",
		"/mail/anna@example.org":                  "/mail/{id}",
		"/x/%41nna":                               "/x/{id}",
		"/static/jquery-3.7.1.min.js":             "/static/jquery-3.7.1.min.js",
		"/order-20261":                            "/{id}",
		"/a/b/c/d/e/f/g/h/i/j":                    "/a/b/c/d/e/f/g/h/...",
		"/" + strings.Repeat("x", 41):             "/{id}",
	} {
		if got := PathTemplate(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// A connection that says nothing known, byte by byte and for long, costs little.
func TestMemoryIsBounded(t *testing.T) {
	for _, b := range []string{"\x16\x03\x01\x40\x00\x01\x00\x40\x00", "GET /", "\x00\x00\x00\x20"} {
		r := New(false)
		done := false
		for i := 0; i < 1000 && !done; i++ {
			_, done = r.Feed(Client, begin, []byte(b+strings.Repeat("x", 1000)))
			if n := len(r.kept[Client]); n > maxKept {
				t.Fatalf("%d bytes kept", n)
			}
		}
		if !done || r.kept[Client] != nil {
			t.Errorf("%q goes on", b)
		}
	}
}

// FuzzStream: any bytes in any pieces of both sides.
func FuzzStream(f *testing.F) {
	h := hello(f, "shop.example.com", "h2")
	for _, c := range [][2]string{
		{h, ""}, {"GET /orders/4711?x HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 404 Not Found\r\n\r\n"}, {frames(f, false, ":method", "GET", ":path", "/"), frames(f, true, ":status", "200")},
		{"SSH-2.0-a\r\n", "SSH-2.0-b c\r\n"}, {"\x00\x00\x00\x29\x00\x03\x00\x00user\x00app\x00\x00", "R"}, {"", "\x4a\x00\x00\x00\x0a8.0.36\x00"}, {"*2\r\n$3\r\nGET\r\n", "+OK"},
		{"\x00\x00\x00\x11\x00\x12\x00\x03\x00\x00\x00\x05\x00\x07console", "\x00\x00\x00\x20\x00\x00\x00\x05"}, {framed(message(f, false, "a.example.")), framed(message(f, true, "a.example.", "192.0.2.1"))},
	} {
		f.Add([]byte(c[0]), []byte(c[1]), uint16(3))
	}
	f.Fuzz(func(t *testing.T, client, server []byte, piece uint16) {
		r := New(false)
		n := int(piece%2000) + 1
		for done := false; !done && len(client)+len(server) > 0; {
			var app Application
			for from, b := range map[Side]*[]byte{Client: &client, Server: &server} {
				app, done = r.Feed(from, begin, (*b)[:min(n, len(*b))])
				*b = (*b)[min(n, len(*b)):]
			}
			checkApplication(t, app)
			if len(r.kept[Client]) > maxKept || len(r.kept[Server]) > maxKept {
				t.Fatal("too much is kept")
			}
		}
	})
}

func checkApplication(t *testing.T, app Application) {
	t.Helper()
	for _, s := range []string{app.Host, app.ALPN, app.Method, app.Path, app.Software} {
		if len(s) > maxName || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f }) || strings.Contains(s, "?") && s == app.Path {
			t.Fatalf("%q of %+v", s, app)
		}
	}
}

// FuzzDatagram: any datagrams of both sides.
func FuzzDatagram(f *testing.F) {
	h := quicHello(f, "video.example.com")
	f.Add(seal(f, 1, "12345678", 0, cryptoFrame(0, h[:200])), seal(f, 1, "12345678", 1, cryptoFrame(200, h[200:])), []byte{0x40})
	f.Add([]byte(message(f, false, "a.example.")), []byte{1}, []byte(message(f, true, "a.example.", "192.0.2.1")))
	f.Fuzz(func(t *testing.T, first, second, answer []byte) {
		r := New(true)
		for i, b := range [][]byte{first, second, answer, first} {
			from := Client
			if i == 2 {
				from = Server
			}
			app, _ := r.Feed(from, begin, b)
			checkApplication(t, app)
		}
	})
}

// FuzzCryptoFrames: what an Initial packet holds, behind its protection.
func FuzzCryptoFrames(f *testing.F) {
	f.Add(cryptoFrame(10, "abc"), "abc")
	f.Add([]byte{2, 1, 0, 1, 2, 3, 4, 6, 0, 1, 1}, "")
	f.Fuzz(func(t *testing.T, frames []byte, id string) {
		i := &initial{}
		i.crypto(frames)
		if n := len(i.records()); n > maxKept+5 {
			t.Fatalf("%d bytes", n)
		}
		readHello(i.records())
		PathTemplate(id)
	})
}

func TestNames(t *testing.T) {
	a, b, server := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("192.0.2.7")
	n := NewNames(8)
	n.Learn(a, []Answer{{Name: "one.example", Address: server}})
	n.Learn(b, []Answer{{Name: "two.example", Address: server}})
	for client, want := range map[netip.Addr]string{a: "one.example", b: "two.example", netip.MustParseAddr("10.0.0.3"): "two.example"} {
		if got := n.Of(client, server); got != want {
			t.Errorf("%s: %q", client, got)
		}
	}
	for i := range byte(100) {
		n.Learn(a, []Answer{{Name: "x.example", Address: netip.AddrFrom4([4]byte{198, 51, 100, i})}})
		if len(n.young)+len(n.old) > 8 {
			t.Fatalf("%d names", len(n.young)+len(n.old))
		}
	}
	if got := n.Of(a, server); got != "" {
		t.Errorf("still %q", got)
	}
}
