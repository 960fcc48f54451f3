package deliver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"weft/wire/tapstream"
)

const (
	helloWithin = 10 * time.Second
	writeWithin = 30 * time.Second
	maxNames    = 4096
)

type grant struct {
	device string
	host   string
}

// source is one right to send and what came of it so far.
type source struct {
	grant grant

	serving sync.Mutex // held by the one stream that may run

	mu     sync.Mutex
	conn   net.Conn // of the running stream
	gone   bool     // the grant has been withdrawn
	epoch  uint64
	last   uint64
	totals tapstream.Totals
	names  map[uint32]string
}

// end withdraws the grant and waits for the stream to stop.
func (s *source) end() {
	s.mu.Lock()
	s.gone = true
	if s.conn != nil {
		s.conn.Close()
	}
	s.mu.Unlock()
	s.serving.Lock()
	defer s.serving.Unlock()
}

// begin makes conn the source's stream, in place of one that may still run.
func (s *source) begin(conn net.Conn) bool {
	s.mu.Lock()
	if s.conn != nil {
		s.conn.Close()
	}
	s.mu.Unlock()
	s.serving.Lock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		s.serving.Unlock()
		return false
	}
	s.conn = conn
	return true
}

func (s *source) finish() {
	s.mu.Lock()
	s.conn = nil
	s.mu.Unlock()
	s.serving.Unlock()
}

// Serve works one stream until it ends. conn is encrypted and its peer has
// proven to be peerSPIFFE; Serve closes it. A nil error is an ordinary end.
func (d *Deliver) Serve(ctx context.Context, conn net.Conn, peerSPIFFE string) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(helloWithin))
	in := tapstream.NewReader(bufio.NewReaderSize(conn, 64<<10))
	kind, payload, err := in.Next()
	if err != nil {
		return fmt.Errorf("wait for hello: %w", err)
	}
	if kind != tapstream.TypeHello {
		return fmt.Errorf("%w: message of type %d in place of hello", tapstream.ErrMalformed, kind)
	}
	hello, err := tapstream.ParseHello(payload)
	if err != nil {
		return err
	}
	s, refuse := d.admit(hello, peerSPIFFE)
	if s == nil {
		conn.Write(refuse.Append(nil))
		return refuse
	}
	if !s.begin(conn) {
		refuse := tapstream.Refuse{Code: tapstream.CodeNotGranted, Text: "the tap has just been withdrawn"}
		conn.Write(refuse.Append(nil))
		return refuse
	}
	defer s.finish()
	conn.SetDeadline(time.Time{})
	err = d.work(conn, in, s, hello)
	if errors.Is(err, net.ErrClosed) && ctx.Err() != nil {
		return nil
	}
	return err
}

// admit finds the grant for a hello, or the reason to refuse.
func (d *Deliver) admit(hello tapstream.Hello, spiffe string) (*source, tapstream.Refuse) {
	if hello.Min > tapstream.Version || hello.Max < tapstream.MinVersion {
		return nil, tapstream.Refuse{Code: tapstream.CodeVersion, Text: fmt.Sprintf(
			"this agent speaks tap stream versions %d to %d, the source %d to %d: upgrade the older agent",
			tapstream.MinVersion, tapstream.Version, hello.Min, hello.Max)}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.applied {
		return nil, tapstream.Refuse{Code: tapstream.CodeBusy, Text: "the tool's agent has no plan yet"}
	}
	s := d.sources[sourceKey{hello.Line, spiffe}]
	if s == nil {
		return nil, tapstream.Refuse{Code: tapstream.CodeNotGranted, Text: "no current tap names this source for this line"}
	}
	if err := d.broken[s.grant.device]; err != nil {
		return nil, tapstream.Refuse{Code: tapstream.CodeDevice, Text: err.Error()}
	}
	return s, tapstream.Refuse{}
}

// resume takes up the epoch where it was, or begins a new one.
func (s *source) resume(hello tapstream.Hello, instance uint64) tapstream.Accept {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch != hello.Epoch {
		s.epoch, s.last, s.totals = hello.Epoch, 0, tapstream.Totals{}
	}
	s.names = make(map[uint32]string)
	return tapstream.Accept{Version: min(hello.Max, tapstream.Version), Instance: instance, Last: s.last, Totals: s.totals}
}

func (d *Deliver) work(conn net.Conn, in *tapstream.Reader, s *source, hello tapstream.Hello) error {
	out := make([]byte, 0, 256)
	send := func(msg []byte) error {
		conn.SetWriteDeadline(time.Now().Add(writeWithin))
		_, err := conn.Write(msg)
		return err
	}
	if err := send(s.resume(hello, d.instance).Append(out[:0])); err != nil {
		return fmt.Errorf("send accept: %w", err)
	}
	var dec tapstream.Decoder
	for {
		conn.SetReadDeadline(time.Now().Add(tapstream.DeadAfter))
		kind, payload, err := in.Next()
		if err != nil {
			return fmt.Errorf("hear from the source: %w", err)
		}
		switch kind {
		case tapstream.TypeBatch:
			ack, err := d.batch(s, &dec, payload)
			if err != nil {
				return err
			}
			if err := send(ack.Append(out[:0])); err != nil {
				return fmt.Errorf("send an ack: %w", err)
			}
		case tapstream.TypeNames:
			names, err := tapstream.ParseNames(payload)
			if err != nil {
				return err
			}
			if err := s.learn(names); err != nil {
				return err
			}
		case tapstream.TypePing:
			token, err := tapstream.ParseToken(payload)
			if err != nil {
				return err
			}
			if ack, changed := d.recount(s); changed {
				if err := send(ack.Append(out[:0])); err != nil {
					return fmt.Errorf("send an ack: %w", err)
				}
			}
			if err := send(tapstream.AppendPong(out[:0], token)); err != nil {
				return fmt.Errorf("send a pong: %w", err)
			}
		case tapstream.TypePong:
		default:
			return fmt.Errorf("%w: message of type %d from a source", tapstream.ErrMalformed, kind)
		}
	}
}

func (s *source) learn(names []tapstream.Name) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		s.names[n.Number] = n.ID
	}
	if len(s.names) > maxNames {
		return fmt.Errorf("%w: more than %d names", tapstream.ErrMalformed, maxNames)
	}
	return nil
}

// batch deals with one batch: skips it if that was done, else feeds it, and
// adds to the totals whatever became of it.
func (d *Deliver) batch(s *source, dec *tapstream.Decoder, payload []byte) (tapstream.Ack, error) {
	b, err := tapstream.ParseBatch(payload)
	if err != nil {
		return tapstream.Ack{}, err
	}
	if b.Sequence <= s.last {
		return tapstream.Ack{Sequence: s.last, Totals: s.totals}, nil
	}
	if err := dec.Open(b); err != nil {
		return tapstream.Ack{}, err
	}
	d.mu.Lock()
	dev := d.devices[s.grant.device]
	d.mu.Unlock()
	totals := s.totals
	if dev == nil {
		totals.FailedPackets += uint64(b.Packets)
		totals.FailedBytes += b.Bytes
	} else {
		delivered, failed, deviceErr, formatErr := dev.feed.write(dec)
		if deviceErr != nil {
			d.log.Debug("device refused frames", "device", dev.name, "packets", failed.Packets, "err", deviceErr)
		}
		totals.DeliveredPackets += delivered.Packets
		totals.DeliveredBytes += delivered.Bytes
		// What the batch says it holds and did not is failed too.
		totals.FailedPackets += uint64(b.Packets) - delivered.Packets
		totals.FailedBytes += b.Bytes - delivered.Bytes
		undeliver(&totals, dev.dropped(false))
		if formatErr != nil {
			d.log.Warn("batch does not decode", "from", s.grant.host, "err", formatErr)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.totals = b.Sequence, totals
	return tapstream.Ack{Sequence: s.last, Totals: s.totals}, nil
}

// undeliver moves frames that the device dropped after all from delivered to
// failed. The kernel counts no bytes for them; the average of the epoch stands in, so
// that the account stays whole. Where several streams feed one device, the
// drops go to the one that finds them.
func undeliver(t *tapstream.Totals, packets uint64) {
	packets = min(packets, t.DeliveredPackets)
	if packets == 0 {
		return
	}
	bytes := t.DeliveredBytes / t.DeliveredPackets * packets
	if packets == t.DeliveredPackets {
		bytes = t.DeliveredBytes
	}
	t.DeliveredPackets -= packets
	t.DeliveredBytes -= bytes
	t.FailedPackets += packets
	t.FailedBytes += bytes
}

// recount looks for drops while the stream is quiet.
func (d *Deliver) recount(s *source) (tapstream.Ack, bool) {
	d.mu.Lock()
	dev := d.devices[s.grant.device]
	d.mu.Unlock()
	if dev == nil {
		return tapstream.Ack{}, false
	}
	packets := dev.dropped(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	undeliver(&s.totals, packets)
	return tapstream.Ack{Sequence: s.last, Totals: s.totals}, packets > 0
}
