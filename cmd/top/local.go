package top

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"weft/agent/monitor"
	"weft/model"
)

// SampleSocket is the agent's, in its state directory: who connects writes a line
// of JSON, a Request, and is sent samples, a line each.
const SampleSocket = "top.sock"

// Request is what is asked at the socket.
type Request struct {
	Seconds float64 `json:"seconds"` // between two samples
}

// Local feeds from this machine: from its agent, which knows what containers are
// called and what each process sends, and without one from /proc alone.
func Local(stateDir string, interval time.Duration) Feed {
	return func(ctx context.Context, _ string, give func(*model.Sample, time.Duration)) error {
		conn, err := net.DialTimeout("unix", filepath.Join(stateDir, SampleSocket), time.Second)
		if err != nil {
			return look(ctx, interval, give)
		}
		return listen(ctx, conn, interval, give)
	}
}

func listen(ctx context.Context, conn net.Conn, interval time.Duration, give func(*model.Sample, time.Duration)) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := json.NewEncoder(conn).Encode(Request{interval.Seconds()}); err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	for in := json.NewDecoder(conn); ; {
		// Each sample is a value of its own: what was given is not changed.
		var s model.Sample
		_ = conn.SetReadDeadline(time.Now().Add(interval + 10*time.Second))
		if err := in.Decode(&s); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, io.EOF) {
				err = errors.New("it has ended")
			}
			return fmt.Errorf("listen to the agent: %w", err)
		}
		give(&s, 0)
	}
}

// look samples by itself.
func look(ctx context.Context, interval time.Duration, give func(*model.Sample, time.Duration)) error {
	m := monitor.New(monitor.Config{}, monitor.Deps{})
	for {
		s, err := m.Sample()
		if err != nil {
			return err
		}
		give(monitor.Copy(s), 0)
		pause := interval
		if s.Seconds == 0 { // rates come soon
			pause = min(interval, time.Second)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}
