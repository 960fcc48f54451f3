// Package relaywire is how agents and relays speak. It opens no socket.
//
// An agent dials the relay and does TLS 1.3 (ALPN "weft-relay/1") with its
// certificate; the relay's carries the SPIFFE id that the agent was told. On
// top runs yamux, agent as the client. Either side opens streams:
//
//	agent A                      relay                       agent B
//	  | -- stream: CONNECT B ----> |                            |
//	  |                            | -- stream: INCOMING A ---> |
//	  |                            | <------------------- OK -- |
//	  | <-- OK ------------------- |                            |
//	  | <======== bytes, both ways, each half closed by FIN ===> |
//
// What follows OK is TLS 1.3 between A and B, so the relay carries ciphertext
// alone; that A is who the relay says is proven there, not here. Instead of OK
// there may be ERROR, and then the stream ends. A relay that ends a session
// says why on a stream of its own that holds nothing but an ERROR.
//
// A preamble is one of the four words:
//
//	 0               1               2               3
//	+---------------+---------------+---------------+---------------+
//	| 'W' (0x57)    | 'R' (0x52)    | version (1)   | kind          |
//	+---------------+---------------+---------------+---------------+
//	| code (16 bit, 0 unless ERROR) | length of text (16 bit)       |
//	+---------------+---------------+---------------+---------------+
//	| text: UTF-8, at most 2048 bytes                               |
//	+---------------------------------------------------------------+
//
// Numbers are in network byte order. Kinds: 1 CONNECT and 2 INCOMING, whose
// text is a SPIFFE id (2048 bytes at most by its standard); 3 OK, without
// text; 4 ERROR, whose text is for people.
package relaywire

import (
	"encoding/binary"
	"fmt"
	"io"
	"unicode/utf8"
)

// ALPN names this protocol in the TLS handshake.
const ALPN = "weft-relay/1"

// MaxText bounds the text of a preamble in bytes.
const MaxText = 2048

const (
	version    = 1
	headerSize = 8
)

// Kind is what a preamble says.
type Kind uint8

// The kinds of preambles.
const (
	Connect  Kind = 1
	Incoming Kind = 2
	OK       Kind = 3
	Failed   Kind = 4
)

func (k Kind) String() string {
	switch k {
	case Connect:
		return "CONNECT"
	case Incoming:
		return "INCOMING"
	case OK:
		return "OK"
	case Failed:
		return "ERROR"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Code says why a stream or a session failed, for programs.
type Code uint16

// The codes of an ERROR.
const (
	// CodeUnknown: the target has no session with this relay; another may know it.
	CodeUnknown Code = 1
	// CodeLimit: too many streams, or opened too fast; later may do.
	CodeLimit Code = 2
	// CodeRefused: the target does not accept streams.
	CodeRefused Code = 3
	// CodeBadRequest: the preamble makes no sense here.
	CodeBadRequest Code = 4
	// CodeTimeout: the target did not answer in time.
	CodeTimeout Code = 5
	// CodeReplaced: the session ends since the same identity has a newer one.
	CodeReplaced Code = 6
	// CodeShutdown: the relay is about to stop.
	CodeShutdown Code = 7
)

// Preamble is one of the words above.
type Preamble struct {
	Kind Kind
	Code Code
	Text string
}

// Error is a preamble of kind ERROR as a Go error.
type Error struct {
	Code Code
	Text string
}

func (e *Error) Error() string { return e.Text }

// check holds for whatever is written and whatever is read.
func (p Preamble) check() error {
	switch {
	case p.Kind < Connect || p.Kind > Failed:
		return fmt.Errorf("preamble of unknown %s", p.Kind)
	case len(p.Text) > MaxText:
		return fmt.Errorf("text of %s has %d bytes; %d at most", p.Kind, len(p.Text), MaxText)
	case !utf8.ValidString(p.Text):
		return fmt.Errorf("text of %s is not UTF-8", p.Kind)
	case p.Kind != Failed && p.Code != 0:
		return fmt.Errorf("%s carries code %d", p.Kind, p.Code)
	case p.Kind == Failed && p.Code == 0:
		return fmt.Errorf("%s carries no code", p.Kind)
	case p.Kind == OK && p.Text != "":
		return fmt.Errorf("%s carries text", p.Kind)
	case (p.Kind == Connect || p.Kind == Incoming) && p.Text == "":
		return fmt.Errorf("%s names nobody", p.Kind)
	}
	return nil
}

// Append adds the preamble's bytes to b.
func (p Preamble) Append(b []byte) ([]byte, error) {
	if err := p.check(); err != nil {
		return b, err
	}
	b = append(b, 'W', 'R', version, byte(p.Kind))
	b = binary.BigEndian.AppendUint16(b, uint16(p.Code))
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.Text)))
	return append(b, p.Text...), nil
}

// Write sends the preamble in one write.
func Write(w io.Writer, p Preamble) error {
	b, err := p.Append(make([]byte, 0, headerSize+len(p.Text)))
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// Read takes one preamble and not a byte more. The caller sets a deadline.
func Read(r io.Reader) (Preamble, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return Preamble{}, fmt.Errorf("read preamble: %w", err)
	}
	if header[0] != 'W' || header[1] != 'R' {
		return Preamble{}, fmt.Errorf("read preamble: it begins with %#x %#x", header[0], header[1])
	}
	if header[2] != version {
		return Preamble{}, fmt.Errorf("read preamble: version %d, this program speaks %d", header[2], version)
	}
	p := Preamble{Kind: Kind(header[3]), Code: Code(binary.BigEndian.Uint16(header[4:]))}
	length := binary.BigEndian.Uint16(header[6:])
	if length > MaxText {
		return Preamble{}, fmt.Errorf("read preamble: text of %d bytes; %d at most", length, MaxText)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(r, text); err != nil {
		return Preamble{}, fmt.Errorf("read preamble: %w", err)
	}
	p.Text = string(text)
	if err := p.check(); err != nil {
		return Preamble{}, fmt.Errorf("read preamble: %w", err)
	}
	return p, nil
}
