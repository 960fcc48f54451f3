package relaywire

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
)

func TestPreambleRoundTrip(t *testing.T) {
	for _, want := range []Preamble{
		{Kind: Connect, Text: "spiffe://example.org/host/a/1"},
		{Kind: Incoming, Text: strings.Repeat("x", MaxText)},
		{Kind: OK},
		{Kind: Failed, Code: CodeUnknown, Text: "no such host"},
	} {
		var b bytes.Buffer
		if err := Write(&b, want); err != nil {
			t.Fatal(err)
		}
		b.WriteString("rest")
		got, err := Read(&b)
		if err != nil || got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		if b.String() != "rest" {
			t.Errorf("%s: read too far, left %q", want.Kind, b.String())
		}
	}
}

func TestPreambleBytes(t *testing.T) {
	b, err := Preamble{Kind: Failed, Code: CodeLimit, Text: "no"}.Append(nil)
	if err != nil || string(b) != "WR\x01\x04\x00\x02\x00\x02no" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestBadPreambles(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "EOF",
		"WR\x01":                             "unexpected EOF",
		"GET / HT":                           "begins with 0x47 0x45",
		"WR\x02\x01\x00\x00\x00\x00":         "version 2, this program speaks 1",
		"WR\x01\x09\x00\x00\x00\x00":         "unknown kind 9",
		"WR\x01\x01\x00\x00\x00\x00":         "CONNECT names nobody",
		"WR\x01\x01\x00\x01\x00\x01x":        "CONNECT carries code 1",
		"WR\x01\x03\x00\x00\x00\x01x":        "OK carries text",
		"WR\x01\x04\x00\x00\x00\x01x":        "ERROR carries no code",
		"WR\x01\x01\x00\x00\x08\x01":         "text of 2049 bytes; 2048 at most",
		"WR\x01\x01\x00\x00\x00\x02\xff\xff": "not UTF-8",
		"WR\x01\x01\x00\x00\x00\x09short":    "unexpected EOF",
	} {
		if p, err := Read(strings.NewReader(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %+v, %v, want %q", in, p, err, want)
		}
	}
	if _, err := (Preamble{Kind: Connect, Text: strings.Repeat("x", MaxText+1)}).Append(nil); err == nil {
		t.Error("a text too long was written")
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("WR\x01\x01\x00\x00\x00\x05abcde"))
	f.Add([]byte("WR\x01\x04\x00\x07\x00\x00"))
	f.Add([]byte("WR\x01\x03\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := Read(bytes.NewReader(in))
		if err != nil {
			return
		}
		out, err := p.Append(nil)
		if err != nil || !bytes.HasPrefix(in, out) {
			t.Errorf("%q reads as %+v, which writes %q, %v", in, p, out, err)
		}
	})
}

// recorder counts the writes that reach the connection below.
type recorder struct {
	net.Conn
	writes [][]byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.writes = append(r.writes, bytes.Clone(p))
	return len(p), nil
}

func TestCoalescerJoinsHeaderAndBody(t *testing.T) {
	header := func(kind byte, length byte) []byte { return []byte{0, kind, 0, 0, 0, 0, 0, 1, 0, 0, 0, length} }
	r := &recorder{}
	c := newCoalescer(r)
	for _, p := range [][]byte{header(1, 9), header(0, 3), []byte("abc"), header(0, 0), header(2, 1), header(0, 12), header(2, 2)} {
		if n, err := c.Write(p); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
	}
	var got []int
	for _, w := range r.writes {
		got = append(got, len(w))
	}
	// The last body looks like a header and must not be taken for one.
	if want := []int{12, 15, 12, 12, 24}; !equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestStreamsCarryLargeWrites(t *testing.T) {
	a, b := net.Pipe()
	client, err := Client(a, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := Server(b, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	want := bytes.Repeat([]byte("0123456789abcdef"), 3*Chunk/16+5)
	go func() {
		s, err := Open(t.Context(), client)
		if err != nil {
			return
		}
		s.Write(want)
		s.Close()
	}()
	s, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want))
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
