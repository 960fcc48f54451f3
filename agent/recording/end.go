package recording

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"weft/wire/tapstream"
)

// end is the tool's end of a line whose tool is in the agent. A stream that breaks,
// as one does that waits for long, is taken up by the next where it was.
type end struct {
	// named is told what workloads are called, take handed each batch once. An error
	// of take ends the stream, unless it is errNotKept, which is counted.
	named func([]tapstream.Name)
	take  func(ctx context.Context, b tapstream.Batch, payload []byte) error
	log   *slog.Logger

	serving sync.Mutex // held by the one stream that may run; guards the rest
	epoch   uint64
	last    uint64
	totals  tapstream.Totals
}

// errNotKept is of a batch that is lost here.
var errNotKept = errors.New("the packets could not be kept")

// dial opens a stream, which ends with ctx.
func (e *end) dial(ctx context.Context, path string) *Conn {
	ours, theirs := net.Pipe()
	go e.serve(ctx, ours)
	return &Conn{theirs, path}
}

// Conn is a stream that stays within the machine.
type Conn struct {
	net.Conn
	path string
}

// Path says so, in the words of a tap's stream.
func (c *Conn) Path() (kind, relay, remote string) { return c.path, "", "" }

func (e *end) serve(ctx context.Context, conn net.Conn) {
	e.serving.Lock()
	defer e.serving.Unlock()
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	e.log.Debug("stream of a line ended", "error", e.work(ctx, conn))
}

// work works a stream until it ends, and says why.
func (e *end) work(ctx context.Context, conn net.Conn) error {
	in := tapstream.NewReader(bufio.NewReaderSize(conn, 64<<10))
	send := func(msg []byte) error {
		conn.SetWriteDeadline(time.Now().Add(tapstream.DeadAfter))
		_, err := conn.Write(msg)
		return err
	}
	for {
		kind, payload, err := in.Next()
		if err != nil {
			return err
		}
		switch kind {
		case tapstream.TypeHello:
			hello, err := tapstream.ParseHello(payload)
			if err != nil {
				return err
			}
			if hello.Epoch != e.epoch {
				e.epoch, e.last, e.totals = hello.Epoch, 0, tapstream.Totals{}
			}
			err = send(tapstream.Accept{Version: tapstream.Version, Instance: instance, Last: e.last, Totals: e.totals}.Append(nil))
			if err != nil {
				return err
			}
		case tapstream.TypeNames:
			names, err := tapstream.ParseNames(payload)
			if err != nil {
				return err
			}
			e.named(names)
		case tapstream.TypeBatch:
			if err := e.batch(ctx, payload); err != nil {
				return err
			}
			if err := send(tapstream.Ack{Sequence: e.last, Totals: e.totals}.Append(nil)); err != nil {
				return err
			}
		case tapstream.TypePing:
			token, err := tapstream.ParseToken(payload)
			if err != nil {
				return err
			}
			if err := send(tapstream.AppendPong(nil, token)); err != nil {
				return err
			}
		}
	}
}

func (e *end) batch(ctx context.Context, payload []byte) error {
	b, err := tapstream.ParseBatch(payload)
	if err != nil {
		return err
	}
	if b.Sequence <= e.last {
		return nil
	}
	switch err := e.take(ctx, b, payload); {
	case errors.Is(err, errNotKept):
		e.totals.FailedPackets += uint64(b.Packets)
		e.totals.FailedBytes += b.Bytes
	case err != nil:
		return err
	default:
		e.totals.DeliveredPackets += uint64(b.Packets)
		e.totals.DeliveredBytes += b.Bytes
	}
	e.last = b.Sequence
	return nil
}
