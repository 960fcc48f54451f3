package capture

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"weft/model"
	"weft/wire/tapstream"
	"weft/wire/wirepb"
)

// Conn is a connection to a tool's agent, encrypted and authenticated on both
// sides. It may be closed at any time to move to a better path: the stream
// resumes on the next without loss.
type Conn interface {
	net.Conn
	// Path says how it travels: "direct" or "relay", the relay's name, and the
	// address dialled.
	Path() (kind, relay, remote string)
}

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 10 * time.Second
	openWithin   = 10 * time.Second
	writeWithin  = 30 * time.Second
)

// stream keeps a line connected until ctx ends; flush says when to go once
// everything is acknowledged.
func (c *Capture) stream(ctx context.Context, l *line) {
	defer close(l.done)
	backoff := firstBackoff
	for ctx.Err() == nil {
		connCtx, cancel := context.WithCancel(ctx)
		l.mu.Lock()
		peer := l.peer
		l.redial = cancel
		l.mu.Unlock()
		began := time.Now()
		err := c.connect(connCtx, l, peer)
		cancel()
		if ctx.Err() != nil {
			return
		}
		state, message := stateConnecting, ""
		if err != nil {
			message = err.Error()
		}
		var refuse tapstream.Refuse
		if errors.As(err, &refuse) && refuse.Code != tapstream.CodeBusy {
			state = stateError
		}
		l.setState(c.deps.Now(), state, message)
		if time.Since(began) > 2*time.Second && state == stateConnecting {
			backoff = firstBackoff
		}
		c.deps.Log.Debug("tap stream ended", "line", l.id, "err", err, "retry", backoff)
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff/2 + rand.N(backoff)):
		}
		backoff = min(2*backoff, lastBackoff)
	}
}

// connect dials, opens the stream and works it until it breaks.
func (c *Capture) connect(ctx context.Context, l *line, peer *wirepb.Peer) error {
	if peer == nil {
		return errors.New("the tool is not known yet")
	}
	conn, err := c.deps.Dial(ctx, l.id, peer)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", peer.GetName(), err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	in := tapstream.NewReader(bufio.NewReaderSize(conn, 4096))
	if err := l.open(conn, in); err != nil {
		return err
	}
	l.setState(c.deps.Now(), stateConnected, "")
	kind, relay, remote := conn.Path()
	l.mu.Lock()
	l.status.Path, l.status.Relay, l.status.Remote = kind, relay, remote
	l.mu.Unlock()
	s := &sender{line: l, conn: conn, pongs: make(chan uint64, 1), failed: make(chan error, 1)}
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		s.failed <- s.hear(in)
		conn.Close() // a write may be waiting
	}()
	err = s.send(ctx)
	conn.Close()
	<-heard
	return err
}

// open says hello and takes the answer.
func (l *line) open(conn net.Conn, in *tapstream.Reader) error {
	conn.SetDeadline(time.Now().Add(openWithin))
	defer conn.SetDeadline(time.Time{})
	hello := tapstream.Hello{Min: tapstream.MinVersion, Max: tapstream.Version, Line: l.id, Epoch: l.counts.epoch(), Next: l.counts.nextSequence()}
	if _, err := conn.Write(hello.Append(nil)); err != nil {
		return fmt.Errorf("send hello: %w", err)
	}
	kind, payload, err := in.Next()
	if err != nil {
		return fmt.Errorf("wait for the tool's answer: %w", err)
	}
	switch kind {
	case tapstream.TypeRefuse:
		refuse, err := tapstream.ParseRefuse(payload)
		if err != nil {
			return err
		}
		return refuse
	case tapstream.TypeAccept:
		accept, err := tapstream.ParseAccept(payload)
		if err != nil {
			return err
		}
		if accept.Version < tapstream.MinVersion || accept.Version > tapstream.Version {
			return fmt.Errorf("the tool speaks tap stream version %d, this agent %d to %d: upgrade the older one", accept.Version, tapstream.MinVersion, tapstream.Version)
		}
		if accept.Last >= l.counts.nextSequence() {
			return fmt.Errorf("the tool has dealt with batch %d, %d is the next: is another agent using this identity?", accept.Last, l.counts.nextSequence())
		}
		l.settle(accept)
		l.queue.rewind(accept.Last)
		return nil
	}
	return fmt.Errorf("%w: message of type %d in place of an answer", tapstream.ErrMalformed, kind)
}

// sender works one connection.
type sender struct {
	line   *line
	conn   net.Conn
	pongs  chan uint64
	failed chan error
	buf    []byte
}

// send writes batches as they come until something fails.
func (s *sender) send(ctx context.Context) error {
	ping := time.NewTicker(tapstream.PingAfter)
	defer ping.Stop()
	named, idle := -1, true
	for {
		if b, msg, ok := s.line.queue.take(); ok {
			if err := s.name(&named); err != nil {
				return err
			}
			if err := s.write(msg); err != nil {
				return fmt.Errorf("send a batch: %w", err)
			}
			s.line.queue.wrote(b.sequence)
			idle = false
			select {
			case err := <-s.failed:
				return err
			default:
				continue
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-s.failed:
			return err
		case <-s.line.notify:
		case token := <-s.pongs:
			if err := s.write(tapstream.AppendPong(s.buf[:0], token)); err != nil {
				return fmt.Errorf("send a pong: %w", err)
			}
		case <-ping.C:
			if idle {
				if err := s.write(tapstream.AppendPing(s.buf[:0], 0)); err != nil {
					return fmt.Errorf("send a ping: %w", err)
				}
			}
			idle = true
		}
	}
}

// name tells the tool the workloads' names where they have changed.
func (s *sender) name(named *int) error {
	s.line.mu.Lock()
	names, namings := s.line.names, s.line.namings
	s.line.mu.Unlock()
	if namings == *named {
		return nil
	}
	*named = namings
	s.buf = tapstream.AppendNames(s.buf[:0], names)
	if err := s.write(s.buf); err != nil {
		return fmt.Errorf("send names: %w", err)
	}
	return nil
}

func (s *sender) write(msg []byte) error {
	s.conn.SetWriteDeadline(time.Now().Add(writeWithin))
	_, err := s.conn.Write(msg)
	return err
}

// hear takes the tool's messages until the connection ends.
func (s *sender) hear(in *tapstream.Reader) error {
	l := s.line
	for {
		s.conn.SetReadDeadline(time.Now().Add(tapstream.DeadAfter))
		kind, payload, err := in.Next()
		if err != nil {
			return fmt.Errorf("hear from the tool: %w", err)
		}
		switch kind {
		case tapstream.TypeAck:
			ack, err := tapstream.ParseAck(payload)
			if err != nil {
				return err
			}
			if !l.queue.ack(ack.Sequence) {
				return fmt.Errorf("%w: ack of batch %d, which was not sent", tapstream.ErrMalformed, ack.Sequence)
			}
			l.mu.Lock()
			l.counts.heard(model.Count{Packets: ack.Totals.DeliveredPackets, Bytes: ack.Totals.DeliveredBytes},
				model.Count{Packets: ack.Totals.FailedPackets, Bytes: ack.Totals.FailedBytes})
			l.mu.Unlock()
		case tapstream.TypePing:
			token, err := tapstream.ParseToken(payload)
			if err != nil {
				return err
			}
			select {
			case s.pongs <- token:
			default:
			}
		case tapstream.TypePong:
		case tapstream.TypeRefuse: // the grant has gone, or the device
			refuse, err := tapstream.ParseRefuse(payload)
			if err != nil {
				return err
			}
			return refuse
		default:
			return fmt.Errorf("%w: message of type %d from a tool", tapstream.ErrMalformed, kind)
		}
	}
}
