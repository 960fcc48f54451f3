package recording

import (
	"bufio"
	"bytes"
	"net"
	"time"

	"weft/wire/tapstream"
	"weft/wire/wirepb"
)

// serve is the tool's end of the line's stream. A stream that breaks, as one does
// that waits for long, is taken up by the next where it was.
func (x *recording) serve(conn net.Conn) {
	x.serving.Lock()
	defer x.serving.Unlock()
	defer conn.Close()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-x.ctx.Done():
			conn.Close()
		case <-stop:
		}
	}()
	if err := x.work(conn); err != nil {
		x.all.deps.Log.Debug("stream of a capture ended", "capture", x.order.GetId(), "error", err)
	}
}

func (x *recording) work(conn net.Conn) error {
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
			if hello.Epoch != x.epoch {
				x.epoch, x.last, x.totals = hello.Epoch, 0, tapstream.Totals{}
			}
			err = send(tapstream.Accept{Version: tapstream.Version, Instance: instance, Last: x.last, Totals: x.totals}.Append(nil))
			if err != nil {
				return err
			}
		case tapstream.TypeNames:
			names, err := tapstream.ParseNames(payload)
			if err != nil {
				return err
			}
			x.mu.Lock()
			for _, n := range names {
				x.names = append(x.names, &wirepb.CaptureName{Number: n.Number, Workload: n.ID})
			}
			x.mu.Unlock()
		case tapstream.TypeBatch:
			b, err := tapstream.ParseBatch(payload)
			if err != nil {
				return err
			}
			if b.Sequence > x.last {
				select {
				case x.batches <- bytes.Clone(payload):
				case <-x.ctx.Done():
					return x.ctx.Err()
				}
				x.last = b.Sequence
				x.totals.DeliveredPackets += uint64(b.Packets)
				x.totals.DeliveredBytes += b.Bytes
			}
			if err := send(tapstream.Ack{Sequence: x.last, Totals: x.totals}.Append(nil)); err != nil {
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
