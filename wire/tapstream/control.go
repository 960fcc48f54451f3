package tapstream

import "fmt"

// Limits on texts in messages.
const (
	MaxLine     = 512
	MaxText     = 1024
	MaxWorkload = 252
)

// Hello opens a stream; it comes from the source.
type Hello struct {
	Min, Max uint16
	Line     string
	Epoch    uint64
	Next     uint64 // sequence of the next new batch
}

// Append writes the message.
func (h Hello) Append(dst []byte) []byte {
	start := len(dst)
	dst = appendHeader(dst, TypeHello)
	dst = order.AppendUint16(dst, h.Min)
	dst = order.AppendUint16(dst, h.Max)
	dst = order.AppendUint64(dst, h.Epoch)
	dst = order.AppendUint64(dst, h.Next)
	return endMessage(appendText(dst, h.Line), start)
}

// ParseHello reads the payload of a hello.
func ParseHello(b []byte) (Hello, error) {
	f := fields{b: b}
	h := Hello{Min: f.u16(), Max: f.u16(), Epoch: f.u64(), Next: f.u64(), Line: f.text(MaxLine)}
	return h, f.end("hello")
}

// Totals is what the tool has done with the packets of one epoch.
type Totals struct {
	DeliveredPackets, DeliveredBytes uint64
	FailedPackets, FailedBytes       uint64
}

func (t Totals) append(dst []byte) []byte {
	dst = order.AppendUint64(dst, t.DeliveredPackets)
	dst = order.AppendUint64(dst, t.DeliveredBytes)
	dst = order.AppendUint64(dst, t.FailedPackets)
	return order.AppendUint64(dst, t.FailedBytes)
}

func (f *fields) totals() Totals {
	return Totals{DeliveredPackets: f.u64(), DeliveredBytes: f.u64(), FailedPackets: f.u64(), FailedBytes: f.u64()}
}

// Accept is the tool's answer to a hello that it grants.
type Accept struct {
	Version  uint16
	Instance uint64 // of the tool's agent; never 0
	Last     uint64 // sequence dealt with; 0: none
	Totals   Totals // of the hello's epoch
}

// Append writes the message.
func (a Accept) Append(dst []byte) []byte {
	start := len(dst)
	dst = appendHeader(dst, TypeAccept)
	dst = order.AppendUint16(dst, a.Version)
	dst = order.AppendUint64(dst, a.Instance)
	dst = order.AppendUint64(dst, a.Last)
	return endMessage(a.Totals.append(dst), start)
}

// ParseAccept reads the payload of an accept.
func ParseAccept(b []byte) (Accept, error) {
	f := fields{b: b}
	a := Accept{Version: f.u16(), Instance: f.u64(), Last: f.u64(), Totals: f.totals()}
	if err := f.end("accept"); err != nil {
		return a, err
	}
	if a.Instance == 0 {
		return a, malformed("accept without an instance")
	}
	return a, nil
}

// Code is the reason of a refusal.
type Code uint16

// The reasons of a refusal.
const (
	CodeVersion    Code = 1 // no version in common
	CodeNotGranted Code = 2 // no current tap names this source for this line
	CodeDevice     Code = 3 // the landing device cannot be had
	CodeBusy       Code = 4 // the agent is stopping or has not its plan yet
)

// Refuse is the tool's answer to a hello that it does not grant. It is an error.
type Refuse struct {
	Code Code
	Text string
}

func (r Refuse) Error() string {
	return fmt.Sprintf("the tool refuses the stream: %s", r.Text)
}

// Append writes the message; the text is cut to MaxText.
func (r Refuse) Append(dst []byte) []byte {
	start := len(dst)
	dst = appendHeader(dst, TypeRefuse)
	dst = order.AppendUint16(dst, uint16(r.Code))
	return endMessage(appendText(dst, r.Text[:min(len(r.Text), MaxText)]), start)
}

// ParseRefuse reads the payload of a refuse.
func ParseRefuse(b []byte) (Refuse, error) {
	f := fields{b: b}
	r := Refuse{Code: Code(f.u16()), Text: f.text(MaxText)}
	return r, f.end("refuse")
}

// Ack says what the tool has dealt with.
type Ack struct {
	Sequence uint64
	Totals   Totals
}

// Append writes the message.
func (a Ack) Append(dst []byte) []byte {
	start := len(dst)
	dst = appendHeader(dst, TypeAck)
	dst = order.AppendUint64(dst, a.Sequence)
	return endMessage(a.Totals.append(dst), start)
}

// ParseAck reads the payload of an ack.
func ParseAck(b []byte) (Ack, error) {
	f := fields{b: b}
	a := Ack{Sequence: f.u64(), Totals: f.totals()}
	return a, f.end("ack")
}

// AppendPing and AppendPong write the messages that keep a stream alive.
func AppendPing(dst []byte, token uint64) []byte { return appendToken(dst, TypePing, token) }

// AppendPong answers the ping of that token.
func AppendPong(dst []byte, token uint64) []byte { return appendToken(dst, TypePong, token) }

func appendToken(dst []byte, t Type, token uint64) []byte {
	start := len(dst)
	return endMessage(order.AppendUint64(appendHeader(dst, t), token), start)
}

// ParseToken reads the payload of a ping or a pong.
func ParseToken(b []byte) (uint64, error) {
	f := fields{b: b}
	token := f.u64()
	return token, f.end("ping")
}

// Name gives the number that stands for a workload in this stream's records.
type Name struct {
	Number uint32
	ID     string
}

// AppendNames writes the names in as many messages as they need.
func AppendNames(dst []byte, names []Name) []byte {
	for len(names) > 0 {
		start := len(dst)
		dst = appendHeader(dst, TypeNames)
		dst = order.AppendUint16(dst, 0)
		n := 0
		for n < len(names) && n < 65535 && len(dst)-start+6+len(names[n].ID) <= MaxNames {
			dst = order.AppendUint32(dst, names[n].Number)
			dst = appendText(dst, names[n].ID[:min(len(names[n].ID), MaxWorkload)])
			n++
		}
		order.PutUint16(dst[start+HeaderLen:], uint16(n))
		dst = endMessage(dst, start)
		names = names[n:]
	}
	return dst
}

// ParseNames reads the payload of a names message.
func ParseNames(b []byte) ([]Name, error) {
	f := fields{b: b}
	n := int(f.u16())
	if n*6 > len(f.b) {
		return nil, malformed("names says %d entries in %d bytes", n, len(f.b))
	}
	names := make([]Name, 0, n)
	for range n {
		names = append(names, Name{Number: f.u32(), ID: f.text(MaxWorkload)})
	}
	return names, f.end("names")
}
