package relaywire

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/yamux"
)

// Window is how many bytes one stream may have on the way in one direction:
// 84 Mbit/s at 100 ms. It is also what one stream may make the other side
// hold in memory, so a relay holds at most two windows for a pipe.
const Window = 1 << 20

// KeepAlive is how often each side asks whether the other is still there.
const KeepAlive = 10 * time.Second

// Chunk is how much to write to a stream at once: small enough that streams
// take turns on a slow link, and with its yamux header two whole TLS records.
const Chunk = 32<<10 - muxHeader

// Config returns the settings of yamux that both sides share.
func Config(log *slog.Logger) *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:     256,
		EnableKeepAlive:   true,
		KeepAliveInterval: KeepAlive,
		// Also how long a keepalive may stay unanswered. A dead connection is
		// found before that by TCP; this is for a peer that hangs.
		ConnectionWriteTimeout: 15 * time.Second,
		MaxStreamWindowSize:    Window,
		StreamOpenTimeout:      20 * time.Second,
		// How long the other half of a stream may go on after ours ended.
		StreamCloseTimeout: 30 * time.Second,
		Logger:             muxLog{log},
	}
}

// Client begins the agent's side on an established TLS connection.
func Client(conn net.Conn, log *slog.Logger) (*yamux.Session, error) {
	return yamux.Client(newCoalescer(conn), Config(log))
}

// Server begins the relay's side on an established TLS connection.
func Server(conn net.Conn, log *slog.Logger) (*yamux.Session, error) {
	return yamux.Server(newCoalescer(conn), Config(log))
}

// Open opens a stream, giving up when ctx ends.
func Open(ctx context.Context, session *yamux.Session) (*yamux.Stream, error) {
	type result struct {
		stream *yamux.Stream
		err    error
	}
	done := make(chan result, 1)
	go func() { // ends by StreamOpenTimeout at the latest
		s, err := session.OpenStream()
		done <- result{s, err}
	}()
	select {
	case r := <-done:
		return r.stream, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				r.stream.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// Abort ends both halves of a stream and wakes whoever reads or writes it.
func Abort(stream *yamux.Stream) {
	stream.SetDeadline(time.Unix(1, 0)) // never fails
	stream.Close()
}

// muxLog shows yamux's own lines when debugging; what matters comes as errors.
type muxLog struct{ log *slog.Logger }

func (m muxLog) Print(v ...any)            { m.log.Debug("mux", "line", fmt.Sprint(v...)) }
func (m muxLog) Printf(f string, v ...any) { m.log.Debug("mux", "line", fmt.Sprintf(f, v...)) }
func (m muxLog) Println(v ...any)          { m.log.Debug("mux", "line", fmt.Sprint(v...)) }
