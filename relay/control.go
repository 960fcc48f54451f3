package relay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"

	"weft/internal/version"
	"weft/wire"
	"weft/wire/wirepb"
	"weft/wire/wirepb/wirepbconnect"
)

const (
	// reportEvery bounds how old the controller's picture of a relay is.
	reportEvery      = 5 * time.Second
	defaultHeartbeat = 10 * time.Second
	// missed is how many heartbeats of the controller may stay out.
	missed = 3

	controlRetryMax = 30 * time.Second
)

// RunControl keeps a session with the controller until ctx ends. The relay
// works on while there is none.
func (r *Relay) RunControl(ctx context.Context, controller string, ready func()) error {
	ready()
	client := wirepbconnect.NewControllerClient(r.deps.Identity.HTTPClient(), controller)
	wait := time.Second
	for {
		began := time.Now()
		err := r.control(ctx, client)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > controlRetryMax {
			wait = time.Second
		}
		pause := wait/2 + time.Duration(mathrand.Int64N(int64(wait/2)))
		r.log.Warn("session with the controller ended", "error", err, "again_after", pause)
		if sleep(ctx, pause) != nil {
			return nil
		}
		wait = min(2*wait, controlRetryMax)
	}
}

// control is one session: Hello, Welcome, then heartbeats and reports one way
// and heartbeats the other.
func (r *Relay) control(ctx context.Context, client wirepbconnect.ControllerClient) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream := client.Session(ctx)
	defer stream.CloseResponse()
	defer stream.CloseRequest()
	// net/http looks at the context only once the request's body has ended: with
	// nothing to send, a Receive would outlast its context.
	hangUp := context.AfterFunc(ctx, func() { _ = stream.CloseRequest() })
	defer hangUp()
	err := stream.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Hello{Hello: &wirepb.Hello{
		Protocol: wire.Version, MinProtocol: wire.MinVersion, Version: version.Version,
		Instance: r.instance, BootId: bootID(), UnixNanos: time.Now().UnixNano(),
	}}})
	if err != nil {
		return receiveError(stream.Receive, err)
	}
	// A controller that does not answer must not hold us for ever.
	alive := time.AfterFunc(20*time.Second, func() { cancel(errors.New("controller did not answer in time")) })
	defer alive.Stop()
	first, err := stream.Receive()
	if err != nil {
		return orCause(ctx, err)
	}
	welcome := first.GetWelcome()
	if welcome == nil {
		return errors.New("controller's first message is no welcome")
	}
	if welcome.Protocol < wire.MinVersion || welcome.Protocol > wire.Version {
		return fmt.Errorf("controller speaks protocol %d, this relay %d to %d; upgrade the older", welcome.Protocol, wire.MinVersion, wire.Version)
	}
	r.welcomed(welcome)
	heartbeat := time.Duration(welcome.HeartbeatSeconds) * time.Second
	if heartbeat <= 0 {
		heartbeat = defaultHeartbeat
	}
	alive.Reset(missed * heartbeat)
	go func() {
		for {
			msg, err := stream.Receive()
			if err != nil {
				cancel(fmt.Errorf("receive from the controller: %w", err))
				return
			}
			alive.Reset(missed * heartbeat)
			if hb := msg.GetHeartbeat(); hb != nil && hb.UnixNanos != 0 {
				r.deps.Identity.ObserveTime(time.Unix(0, hb.UnixNanos))
			}
		}
	}()
	err = r.report(ctx, heartbeat, stream.Send)
	return orCause(ctx, err)
}

func (r *Relay) welcomed(welcome *wirepb.Welcome) {
	if welcome.UnixNanos != 0 {
		r.deps.Identity.ObserveTime(time.Unix(0, welcome.UnixNanos))
	}
	if len(welcome.CaBundle) > 0 {
		if err := r.deps.Identity.SetBundle(welcome.CaBundle); err != nil {
			r.log.Error("take authorities from the controller", "error", err)
		}
	}
	r.log.Info("session with the controller", "name", welcome.Name, "controller_version", welcome.Version)
}

func (r *Relay) report(ctx context.Context, heartbeat time.Duration, send func(*wirepb.AgentMessage) error) error {
	beats := time.NewTicker(heartbeat)
	defer beats.Stop()
	reports := time.NewTicker(reportEvery)
	defer reports.Stop()
	var sent Stats
	for first := true; ; first = false {
		if now := r.Stats(); first || now != sent {
			err := send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Relay{Relay: &wirepb.RelayReport{
				Sessions: uint32(now.Sessions), Streams: uint32(now.Streams), Bytes: now.Bytes}}})
			if err != nil {
				return fmt.Errorf("send report: %w", err)
			}
			sent = now
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-reports.C:
		case <-beats.C:
			err := send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Heartbeat{Heartbeat: &wirepb.Heartbeat{UnixNanos: time.Now().UnixNano()}}})
			if err != nil {
				return fmt.Errorf("send heartbeat: %w", err)
			}
		}
	}
}

// receiveError finds why a send failed: the reason comes with the answer.
func receiveError[T any](receive func() (T, error), sendErr error) error {
	if _, err := receive(); err != nil {
		var ce *connect.Error
		if errors.As(err, &ce) {
			return err
		}
	}
	return sendErr
}

func orCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

func newInstance() string {
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}

// bootID is the kernel's (random(4)); empty where there is none.
func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // absent elsewhere than on Linux
	return strings.TrimSpace(string(data))
}
