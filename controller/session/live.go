package session

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"weft/controller/observe"
	"weft/controller/plan"
	"weft/model"
	"weft/wire"
	"weft/wire/wirepb"
)

type stream = connect.BidiStream[wirepb.AgentMessage, wirepb.ControllerMessage]

// live is one session. Its state is shared between the goroutine that receives,
// the one that sends, and the planner, which only ever leaves a newer plan and
// never waits.
type live struct {
	id       wire.Identity
	instance string
	bootID   string

	ctx  context.Context
	end  context.CancelCauseFunc // with the error to tell the agent
	done chan struct{}           // closed when it has ended and been unregistered
	wake chan struct{}           // of the sender; holds one

	mu       sync.Mutex
	lastSeen time.Time
	desired  map[string]*wirepb.Section // by name; replaced, never changed
	has      map[string]string          // digest of what was sent or is applied, by name
	acks     []*wirepb.FlowAck          // of flows that are kept, not sent yet
	underway int                        // batches of flows that are not kept yet

	full bool // flows are not taken from this session any more; of the goroutine that reads
}

// maxUnderway is how many batches of flows one session may have under way: twice
// what an agent sends.
const maxUnderway = 16

// Session implements the service.
func (s *Service) Session(ctx context.Context, st *stream) error {
	id, resource, err := s.admit(ctx)
	if err != nil {
		return err
	}
	log := s.deps.Log.With("identity", id.String(), "remote", requestOf(ctx).remote)
	hello, err := s.hello(ctx, st)
	if err != nil {
		log.Warn("session refused", "error", err)
		return err
	}
	l, err := s.register(ctx, id, hello)
	if err != nil {
		log.Warn("session refused", "error", err)
		return err
	}
	defer s.unregister(l)
	// The resource may have been revoked between the check and the registration,
	// before which the planner could not cut anything.
	if _, _, err := s.admit(ctx); err != nil {
		return err
	}
	skew := time.Unix(0, hello.UnixNanos).Sub(s.now())
	s.deps.Observer.Connected(id, observe.Peer{Version: hello.Version, BootID: hello.BootId, Remote: requestOf(ctx).remote, Skew: skew}, hello.Sections)
	log.Info("session begins", "version", hello.Version, "skew", skew.Round(time.Millisecond), "name", resource.Meta().Name)
	err = s.serve(l, st, hello)
	log.Info("session ends", "error", err)
	return err
}

// hello receives the first message and settles the protocol version.
func (s *Service) hello(ctx context.Context, st *stream) (*wirepb.Hello, error) {
	cut := requestOf(ctx).cut
	timer := time.AfterFunc(missedBeats*s.cfg.Heartbeat, func() {
		if cut != nil {
			cut.SetReadDeadline(time.Now())
		}
	})
	m, err := st.Receive()
	if !timer.Stop() {
		return nil, refuse(connect.CodeDeadlineExceeded, wire.ReasonSilent, "no Hello within %s", missedBeats*s.cfg.Heartbeat)
	}
	if err != nil {
		return nil, err
	}
	hello := m.GetHello()
	if hello == nil {
		return nil, refuse(connect.CodeInvalidArgument, wire.ReasonProtocol, "the first message must be Hello")
	}
	if common := min(hello.Protocol, wire.Version); common < wire.MinVersion || common < hello.MinProtocol {
		return nil, refuse(connect.CodeFailedPrecondition, wire.ReasonVersion,
			"the agent (%s) speaks protocol %d to %d, the controller (%s) %d to %d; upgrade the older of the two",
			hello.Version, hello.MinProtocol, hello.Protocol, s.cfg.Version, wire.MinVersion, wire.Version)
	}
	if hello.Instance == "" || len(hello.Instance) > 128 || len(hello.BootId) > 128 || len(hello.Version) > 128 || len(hello.Sections) > 64 {
		return nil, refuse(connect.CodeInvalidArgument, wire.ReasonProtocol, "Hello without an instance, or with a field that is too long")
	}
	return hello, nil
}

// register makes the session the identity's only one. The same program takes
// over from its own earlier session; another program is a clone, unless the
// earlier session is silent already.
func (s *Service) register(ctx context.Context, id wire.Identity, hello *wirepb.Hello) (*live, error) {
	key := id.String()
	l := &live{id: id, instance: hello.Instance, bootID: hello.BootId, done: make(chan struct{}), wake: make(chan struct{}, 1),
		lastSeen: s.now(), has: map[string]string{}}
	l.ctx, l.end = context.WithCancelCause(ctx)
	for _, section := range hello.Sections {
		// A section whose apply failed counts: the agent retries by itself.
		l.has[section.Name] = section.Digest
	}
	for {
		s.mu.Lock()
		if s.stopped {
			s.mu.Unlock()
			return nil, refuse(connect.CodeUnavailable, wire.ReasonStopping, "the controller is stopping")
		}
		old := s.live[key]
		if old == nil {
			s.live[key] = l
			l.desired = s.sections(id)
			s.mu.Unlock()
			return l, nil
		}
		s.mu.Unlock()
		if silent := s.now().Sub(old.seen()); old.instance != l.instance && silent < missedBeats*s.cfg.Heartbeat {
			return nil, refuse(connect.CodeAlreadyExists, wire.ReasonClone,
				"%s %q already has a session from another program: boot %s (last heard %s ago), this is boot %s; if the machine was cloned, remove the state directory of one and join it under another name; if the agent was restarted, it is let in within %s",
				id.Role, id.Name, old.bootID, silent.Round(100*time.Millisecond), l.bootID, missedBeats*s.cfg.Heartbeat)
		}
		old.end(refuse(connect.CodeAborted, wire.ReasonReplaced, "replaced by a newer session of %s", id.Name))
		select {
		case <-old.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Service) unregister(l *live) {
	l.end(nil)
	s.mu.Lock()
	if s.live[l.id.String()] == l {
		delete(s.live, l.id.String())
	}
	s.mu.Unlock()
	s.deps.Observer.Disconnected(l.id)
	if s.deps.Probes != nil {
		s.deps.Probes.Gone(l.id)
	}
	close(l.done)
}

// serve sends and receives until either fails or the session is ended.
func (s *Service) serve(l *live, st *stream, hello *wirepb.Hello) error {
	welcome := &wirepb.Welcome{
		Protocol: min(hello.Protocol, wire.Version), Version: s.cfg.Version, Name: l.id.Name, UnixNanos: s.now().UnixNano(),
		HeartbeatSeconds: uint32(max(s.cfg.Heartbeat/time.Second, 1)), TrustDomain: s.cfg.TrustDomain, CaBundle: s.deps.Authority.Bundle(),
	}
	var both sync.WaitGroup
	both.Go(func() { l.end(s.receive(l, st)) })
	both.Go(func() { l.end(s.send(l, st, welcome)) })
	s.watch(l)
	// Neither goroutine may outlive the handler. A receive ends by the read
	// deadline; a send that the agent does not take, by the write deadline, a
	// little later so that an agent that listens is told why.
	sent := make(chan struct{})
	go func() { both.Wait(); close(sent) }()
	if cut := requestOf(l.ctx).cut; cut != nil {
		cut.SetReadDeadline(time.Now())
		select {
		case <-sent:
		case <-time.After(200 * time.Millisecond):
			cut.SetWriteDeadline(time.Now())
		}
	}
	<-sent
	cause := context.Cause(l.ctx)
	if cause == nil || errors.Is(cause, context.Canceled) || errors.Is(cause, io.EOF) {
		return nil
	}
	return cause
}

// watch returns when the session has to end: ended by somebody, silent for too
// long, or its certificate out of date.
func (s *Service) watch(l *live) {
	var expired <-chan time.Time
	if ends := requestOf(l.ctx).expires; !ends.IsZero() {
		timer := time.NewTimer(ends.Sub(s.now()))
		defer timer.Stop()
		expired = timer.C
	}
	tick := time.NewTicker(s.cfg.Heartbeat / 2)
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-expired:
			l.end(refuse(connect.CodeUnauthenticated, wire.ReasonExpired, "the certificate has expired; connect anew with a renewed one"))
		case <-tick.C:
			if silent := s.now().Sub(l.seen()); silent > missedBeats*s.cfg.Heartbeat {
				l.end(refuse(connect.CodeDeadlineExceeded, wire.ReasonSilent, "nothing heard for %s", silent.Round(100*time.Millisecond)))
			}
		}
	}
}

func (l *live) seen() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastSeen
}

// receive takes the agent's reports. Every message is a boundary at which an
// ended (revoked) session is noticed before the message counts.
func (s *Service) receive(l *live, st *stream) error {
	for {
		m, err := st.Receive()
		if l.ctx.Err() != nil {
			return context.Cause(l.ctx)
		}
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.lastSeen = s.now()
		l.mu.Unlock()
		if err := s.report(l, m); err != nil {
			return err
		}
	}
}

func (s *Service) report(l *live, m *wirepb.AgentMessage) error {
	if _, beat := m.Body.(*wirepb.AgentMessage_Heartbeat); !beat && (m.GetRelay() != nil) != (l.id.Role == model.RoleRelay) {
		return refuse(connect.CodeInvalidArgument, wire.ReasonProtocol, "a %s may not send %T", l.id.Role, m.Body)
	}
	switch b := m.Body.(type) {
	case *wirepb.AgentMessage_Heartbeat:
		s.deps.Observer.Seen(l.id, time.Unix(0, b.Heartbeat.UnixNanos).Sub(s.now()))
	case *wirepb.AgentMessage_Facts:
		s.deps.Observer.Facts(l.id, b.Facts)
	case *wirepb.AgentMessage_Workloads:
		if err := s.deps.Observer.ReportWorkloads(l.id, b.Workloads); err != nil {
			return refuse(connect.CodeResourceExhausted, wire.ReasonProtocol, "%w", err)
		}
	case *wirepb.AgentMessage_Section:
		s.deps.Observer.Section(l.id, b.Section)
	case *wirepb.AgentMessage_Lines:
		s.deps.Observer.Lines(l.id, b.Lines)
	case *wirepb.AgentMessage_Policy:
		s.deps.Observer.PolicyReport(l.id, b.Policy)
	case *wirepb.AgentMessage_Flows:
		return s.flows(l, b.Flows)
	case *wirepb.AgentMessage_Sample:
		if s.deps.Samples != nil {
			s.deps.Samples.Take(l.id, b.Sample)
		}
	case *wirepb.AgentMessage_Capture:
		if s.deps.Captures != nil {
			s.deps.Captures.Take(l.id, b.Capture)
		}
	case *wirepb.AgentMessage_Probe:
		if s.deps.Probes != nil {
			s.deps.Probes.Take(l.id, b.Probe)
		}
	case *wirepb.AgentMessage_Probes:
		s.deps.Observer.Probes(l.id, b.Probes)
	case *wirepb.AgentMessage_Relay:
		s.deps.Observer.Relay(l.id, b.Relay)
	case *wirepb.AgentMessage_Hello:
		return refuse(connect.CodeInvalidArgument, wire.ReasonProtocol, "a second Hello")
	}
	return nil // of a newer protocol than ours: ignored
}

// flows takes a batch. It is acknowledged once it is kept.
func (s *Service) flows(l *live, b *wirepb.FlowBatch) error {
	if s.deps.Flows == nil || l.full {
		return nil // never acknowledged: the agent holds it, and sends it again in another session
	}
	l.mu.Lock()
	l.underway++
	many := l.underway > maxUnderway
	l.mu.Unlock()
	if many {
		return refuse(connect.CodeResourceExhausted, wire.ReasonProtocol, "more than %d batches of flows are under way", maxUnderway)
	}
	kept := func(ack *wirepb.FlowAck) {
		l.mu.Lock()
		l.acks = append(l.acks, ack)
		l.underway--
		l.mu.Unlock()
		l.poke()
	}
	again := func() {
		l.end(refuse(connect.CodeUnavailable, "", "there is room for flows again; connect anew and send them"))
	}
	switch taken, err := s.deps.Flows(l.id, b, kept, again); {
	case err == nil:
		l.full = !taken
	default:
		// It would come again and again: what cannot be read is lost, and said.
		s.deps.Log.Error("flows of a host cannot be read and are lost", "identity", l.id.String(), "error", err)
		kept(&wirepb.FlowAck{Epoch: b.GetEpoch(), Number: b.GetNumber()})
	}
	return nil
}

// send is the only one who writes: the welcome, sections that the agent does
// not have, what is kept of its flows, what somebody wants to look at, heartbeats. However many plans pass while one section is on its
// way, only the last is sent.
func (s *Service) send(l *live, st *stream, welcome *wirepb.Welcome) error {
	if err := st.Send(&wirepb.ControllerMessage{Body: &wirepb.ControllerMessage_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	beat := time.NewTicker(s.cfg.Heartbeat)
	defer beat.Stop()
	asked := &wirepb.SampleRequest{} // for nothing
	ordered := uint64(0)             // version of captures
	probing := uint64(0)             // version of probes
	for {
		for section := l.next(); section != nil; section = l.next() {
			if err := st.Send(&wirepb.ControllerMessage{Body: &wirepb.ControllerMessage_Section{Section: section}}); err != nil {
				return err
			}
		}
		for _, ack := range l.takeAcks() {
			if err := st.Send(&wirepb.ControllerMessage{Body: &wirepb.ControllerMessage_Flows{Flows: ack}}); err != nil {
				return err
			}
		}
		var looks, looksAtAll <-chan struct{}
		if s.deps.Samples != nil && l.id.Role == model.RoleHost {
			var want *wirepb.SampleRequest
			if want, looks, looksAtAll = s.deps.Samples.Wanted(l.id.UID); !proto.Equal(want, asked) {
				if err := st.Send(&wirepb.ControllerMessage{Body: &wirepb.ControllerMessage_Samples{Samples: want}}); err != nil {
					return err
				}
				asked = want
			}
		}
		var captures <-chan struct{}
		if s.deps.Captures != nil && l.id.Role == model.RoleHost {
			var orders *wirepb.CaptureOrders
			var acks []*wirepb.CaptureAck
			if orders, ordered, acks, captures = s.deps.Captures.Wanted(l.id.UID, ordered); orders != nil {
				if err := st.Send(&wirepb.ControllerMessage{Body: &wirepb.ControllerMessage_Captures{Captures: orders}}); err != nil {
					return err
				}
			}
			for _, ack := range acks {
				if err := st.Send(&wirepb.ControllerMessage{Body: &wirepb.ControllerMessage_Captured{Captured: ack}}); err != nil {
					return err
				}
			}
		}
		var probes <-chan struct{}
		if s.deps.Probes != nil && l.id.Role == model.RoleHost {
			var orders *wirepb.ProbeOrders
			if orders, probing, probes = s.deps.Probes.Wanted(l.id.UID, probing); orders != nil {
				if err := st.Send(&wirepb.ControllerMessage{Body: &wirepb.ControllerMessage_Probes{Probes: orders}}); err != nil {
					return err
				}
			}
		}
		select {
		case <-l.ctx.Done():
			return context.Cause(l.ctx)
		case <-captures:
		case <-probes:
		case <-l.wake:
		case <-looks:
		case <-looksAtAll:
		case <-beat.C:
			m := &wirepb.Heartbeat{UnixNanos: s.now().UnixNano()}
			if err := st.Send(&wirepb.ControllerMessage{Body: &wirepb.ControllerMessage_Heartbeat{Heartbeat: m}}); err != nil {
				return err
			}
		}
	}
}

// next returns a section that the agent does not have yet, and counts it as
// sent; nil when it has all.
func (l *live) next() *wirepb.Section {
	if l.ctx.Err() != nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range plan.Sections {
		if section := l.desired[name]; section != nil && l.has[name] != section.Digest {
			l.has[name] = section.Digest
			return section
		}
	}
	return nil
}

// want leaves newer sections for the sender. It never blocks.
func (l *live) want(sections map[string]*wirepb.Section) {
	l.mu.Lock()
	l.desired = sections
	l.mu.Unlock()
	l.poke()
}

func (l *live) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *live) takeAcks() []*wirepb.FlowAck {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.acks
	l.acks = nil
	return out
}
