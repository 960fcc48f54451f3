package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/yamux"

	"weft/model"
	"weft/wire"
	"weft/wire/relaywire"
)

// refusal is an answer for the agent that asked.
type refusal struct {
	code   relaywire.Code
	text   string
	metric string
}

func (f *refusal) Error() string { return f.text }

func refuse(code relaywire.Code, metric, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...), metric}
}

// connect serves one stream that an agent opened.
func (r *Relay) connect(ctx context.Context, from *session, stream *yamux.Stream) {
	defer relaywire.Abort(stream)
	stream.SetDeadline(time.Now().Add(preambleTimeout))
	ask, err := relaywire.Read(stream)
	if err != nil {
		r.metrics.connects.WithLabelValues("bad").Inc()
		r.log.Info("stream refused", "agent", from.id.Name, "error", err)
		return
	}
	target, there, err := r.reach(ctx, from, ask)
	if err != nil {
		var f *refusal
		if !errors.As(err, &f) {
			f = &refusal{relaywire.CodeUnknown, err.Error(), "failed"}
		}
		r.metrics.connects.WithLabelValues(f.metric).Inc()
		r.log.Debug("stream refused", "agent", from.id.Name, "target", ask.Text, "error", err)
		// The deadline set above bounds this.
		if relaywire.Write(stream, relaywire.Preamble{Kind: relaywire.Failed, Code: f.code, Text: f.text}) == nil {
			stream.Close()
			stream.Read(make([]byte, 1)) // until the agent has read it
		}
		return
	}
	defer relaywire.Abort(there)
	defer from.opened.Add(-1)
	defer target.led.Add(-1)
	p, ok := r.pipes.add(stream, there, r.cfg.MaxStreams)
	if !ok {
		r.metrics.connects.WithLabelValues("limit").Inc()
		relaywire.Write(stream, relaywire.Preamble{Kind: relaywire.Failed, Code: relaywire.CodeLimit, Text: "relay carries as many streams as it may"})
		stream.Close()
		return
	}
	defer r.pipes.remove(p)
	if err := relaywire.Write(stream, relaywire.Preamble{Kind: relaywire.OK}); err != nil {
		return
	}
	stream.SetDeadline(time.Time{})
	there.SetDeadline(time.Time{})
	r.metrics.connects.WithLabelValues("ok").Inc()
	p.run(&r.pipes.bytes)
}

// reach opens a stream to the agent that is asked for and waits for its OK.
// The places that it takes in the two sessions are the caller's to give back.
func (r *Relay) reach(ctx context.Context, from *session, ask relaywire.Preamble) (*session, *yamux.Stream, error) {
	if ask.Kind != relaywire.Connect {
		return nil, nil, refuse(relaywire.CodeBadRequest, "bad", "relay expects CONNECT, got %s", ask.Kind)
	}
	id, err := wire.ParseIdentity(ask.Text)
	if err != nil || id.Role != model.RoleHost {
		return nil, nil, refuse(relaywire.CodeBadRequest, "bad", "%q is not the identity of a host", ask.Text)
	}
	target := r.registry.find(id.String())
	if target == nil {
		return nil, nil, refuse(relaywire.CodeUnknown, "unknown", "host %s (%s) has no session with this relay", id.Name, id.UID)
	}
	if from.opened.Add(1) > int64(r.cfg.MaxStreamsPerAgent) {
		from.opened.Add(-1)
		return nil, nil, refuse(relaywire.CodeLimit, "limit", "host %s has opened %d streams, as many as it may", from.id.Name, r.cfg.MaxStreamsPerAgent)
	}
	if target.led.Add(1) > int64(r.cfg.MaxStreamsPerAgent) {
		from.opened.Add(-1)
		target.led.Add(-1)
		return nil, nil, refuse(relaywire.CodeLimit, "limit", "host %s is at the end of %d streams, as many as it may", id.Name, r.cfg.MaxStreamsPerAgent)
	}
	there, err := r.introduce(ctx, from, target)
	if err != nil {
		from.opened.Add(-1)
		target.led.Add(-1)
		return nil, nil, err
	}
	return target, there, nil
}

func (r *Relay) introduce(ctx context.Context, from, target *session) (*yamux.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, preambleTimeout)
	defer cancel()
	there, err := relaywire.Open(ctx, target.mux)
	if err != nil {
		return nil, refuse(relaywire.CodeTimeout, "failed", "open stream to host %s: %v", target.id.Name, err)
	}
	deadline, _ := ctx.Deadline()
	there.SetDeadline(deadline)
	err = relaywire.Write(there, relaywire.Preamble{Kind: relaywire.Incoming, Text: from.id.String()})
	var answer relaywire.Preamble
	if err == nil {
		answer, err = relaywire.Read(there)
	}
	switch {
	case err != nil:
		err = refuse(relaywire.CodeTimeout, "failed", "host %s did not answer: %v", target.id.Name, err)
	case answer.Kind == relaywire.OK:
		return there, nil
	case answer.Kind == relaywire.Failed:
		err = refuse(relaywire.CodeRefused, "refused", "host %s refused: %s", target.id.Name, truncate(answer.Text))
	default:
		err = refuse(relaywire.CodeBadRequest, "bad", "host %s answered %s", target.id.Name, answer.Kind)
	}
	relaywire.Abort(there)
	return nil, err
}

// truncate keeps a text from elsewhere within what a preamble may carry.
func truncate(text string) string {
	const max = relaywire.MaxText / 2
	if len(text) <= max {
		return text
	}
	for end := max; ; end-- {
		if text[end]&0xC0 != 0x80 { // between two runes
			return text[:end]
		}
	}
}
