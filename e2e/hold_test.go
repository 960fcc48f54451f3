package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// echo serves bytes back on TCP ports until it is told to end.
func echo(ctx context.Context, ports []string) error {
	for _, port := range ports {
		l, err := net.Listen("tcp4", ":"+port)
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					buf := make([]byte, 16)
					for {
						n, err := c.Read(buf)
						if err != nil {
							return
						}
						c.Write(buf[:n])
					}
				}()
			}
		}()
	}
	<-ctx.Done()
	return nil
}

// How the holder of connections uses them: something is said on each every
// sayEvery, and an answer that takes longer than lateAfter is late.
const (
	sayEvery  = 2 * time.Second
	lateAfter = 3 * time.Second
)

// held is what a holder of connections says of itself, a line of JSON twice a
// second.
type held struct {
	Open   int // connections made
	Failed int // made and lost: reset, closed
	Late   int // open, and waiting for an answer for longer than lateAfter
	// Said counts answers; a round is over once it has grown by Open.
	Said       int64
	FirstError string
}

// hold opens COUNT connections to an address and keeps talking on each, for
// every pair of arguments ADDRESS COUNT. It prints a line {ADDRESS: held, ...}.
func hold(ctx context.Context, args []string) error {
	holders := map[string]*holder{}
	for i := 0; i+1 < len(args); i += 2 {
		n, err := strconv.Atoi(args[i+1])
		if err != nil {
			return err
		}
		h := &holder{address: args[i], waiting: make([]atomic.Int64, n)}
		holders[args[i]] = h
		go h.fill(ctx)
	}
	out := json.NewEncoder(os.Stdout)
	for {
		line := map[string]held{}
		for address, h := range holders {
			line[address] = h.count()
		}
		if err := out.Encode(line); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}

type holder struct {
	address string
	// waiting is since when each connection waits for an answer, in Unix
	// nanoseconds; 0 where it does not.
	waiting []atomic.Int64
	said    atomic.Int64

	mu sync.Mutex
	held
}

// fill opens the connections, 64 at a time.
func (h *holder) fill(ctx context.Context) {
	room := make(chan struct{}, 64)
	for i := range h.waiting {
		room <- struct{}{}
		go func() {
			c, err := (&net.Dialer{Timeout: 20 * time.Second}).DialContext(ctx, "tcp4", h.address)
			<-room
			h.mu.Lock()
			if err == nil {
				h.Open++
			}
			h.mu.Unlock()
			if err == nil {
				defer c.Close()
				err = h.talk(ctx, c, i)
			}
			if ctx.Err() != nil {
				return
			}
			h.waiting[i].Store(0)
			h.mu.Lock()
			defer h.mu.Unlock()
			h.Failed++
			if h.FirstError == "" {
				h.FirstError = time.Now().Format(time.TimeOnly) + " " + err.Error()
			}
		}()
	}
}

func (h *holder) talk(ctx context.Context, c net.Conn, i int) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	word := fmt.Appendf(nil, "%08x", i)
	buf := make([]byte, len(word))
	for {
		h.waiting[i].Store(time.Now().UnixNano())
		if _, err := c.Write(word); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		if string(buf) != string(word) {
			return errors.New("another connection's answer came")
		}
		h.waiting[i].Store(0)
		h.said.Add(1)
		time.Sleep(sayEvery)
	}
}

func (h *holder) count() held {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.held
	out.Said = h.said.Load()
	for i := range h.waiting {
		if since := h.waiting[i].Load(); since != 0 && time.Since(time.Unix(0, since)) > lateAfter {
			out.Late++
		}
	}
	return out
}

// holding is the last that a holder has said.
func (p *process) holding() map[string]held {
	out := map[string]held{}
	text := strings.TrimRight(p.text(), "\n")
	json.Unmarshal([]byte(text[strings.LastIndexByte(text, '\n')+1:]), &out) //nolint:errcheck // nothing said yet
	return out
}
