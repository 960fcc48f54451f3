package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"weft/wire"
	"weft/wire/wirepb"
)

type stream = connect.BidiStreamForClient[wirepb.AgentMessage, wirepb.ControllerMessage]

const (
	maxMessage = 16 << 20
	// welcomeWithin bounds the wait for the controller's first message.
	welcomeWithin = 15 * time.Second
	missedBeats   = 3
	linesEvery    = time.Second
	// healthy is how long a session must last to count as a good one.
	healthy = 2 * time.Second
)

func clientOptions() []connect.ClientOption {
	return []connect.ClientOption{connect.WithReadMaxBytes(maxMessage), connect.WithSendMaxBytes(maxMessage)}
}

// keepSession opens one session after another until ctx ends.
func (a *Agent) keepSession(ctx context.Context) {
	pause := a.cfg.BackoffMin
	said := ""
	for ctx.Err() == nil {
		began := time.Now()
		welcomed, err := a.session(ctx)
		if ctx.Err() != nil {
			return
		}
		a.setStatus(false, err)
		if welcomed && time.Since(began) >= healthy {
			pause, said = a.cfg.BackoffMin, ""
		}
		// The same trouble every half minute for a week is said once.
		if text := fmt.Sprint(err); text != said {
			a.deps.Log.Warn("no session with the controller; working on by the last-known-good state", "error", err, "retry", pause)
			said = text
		}
		if reason := reasonOf(err); reason == wire.ReasonRevoked || reason == wire.ReasonUnknown {
			a.deps.Log.Error("this machine was put out by the controller; everything is taken down", "error", err)
			a.applier.clear()
			pause = a.cfg.BackoffMax
		}
		// A connection that a session failed on may be broken, or may have been
		// made with a certificate that has been renewed since.
		a.deps.HTTP.CloseIdleConnections()
		// Half fixed, half random: a thousand agents come back spread out.
		sleep(ctx, pause/2+rand.N(pause/2+1))
		pause = min(2*pause, a.cfg.BackoffMax)
	}
}

// reasonOf is the controller's reason for a refusal, or "".
func reasonOf(err error) string {
	var refusal *connect.Error
	if errors.As(err, &refusal) {
		return refusal.Meta().Get(wire.HeaderReason)
	}
	return ""
}

// session holds one session to its end and says whether it was welcomed.
func (a *Agent) session(parent context.Context) (welcomed bool, err error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	st := a.client.Session(ctx)
	// net/http looks at the context only once the request's body has ended: with
	// nothing to send, a Receive would outlast its context.
	hangUp := context.AfterFunc(ctx, func() { _ = st.CloseRequest() })
	defer hangUp()
	defer func() {
		cancel(nil)
		_ = st.CloseRequest()
		_ = st.CloseResponse()
	}()
	timeout := time.AfterFunc(welcomeWithin, func() { cancel(fmt.Errorf("no welcome from the controller within %s", welcomeWithin)) })
	sent := a.cfg.Now()
	err = st.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Hello{Hello: &wirepb.Hello{
		Protocol: wire.Version, MinProtocol: wire.MinVersion, Version: a.cfg.Version, Instance: a.instance, BootId: a.cfg.BootID,
		UnixNanos: sent.UnixNano(), Sections: a.applier.works(),
	}}})
	// A refusal shows in Receive; Send then says only EOF.
	first, rerr := st.Receive()
	if !timeout.Stop() {
		return false, context.Cause(ctx)
	}
	if rerr != nil {
		return false, rerr
	}
	if err != nil {
		return false, err
	}
	welcome := first.GetWelcome()
	if welcome == nil {
		return false, errors.New("the controller's first message is no Welcome")
	}
	a.welcome(welcome, sent, a.cfg.Now())
	s := &session{agent: a, stream: st, heartbeat: time.Duration(max(welcome.HeartbeatSeconds, 1)) * time.Second, flowAcked: make(chan struct{}, 1), looks: make(chan *wirepb.SampleRequest, 1)}
	return true, s.serve(ctx, cancel)
}

func (a *Agent) welcome(w *wirepb.Welcome, sent, received time.Time) {
	middle := sent.Add(received.Sub(sent) / 2)
	offset := time.Unix(0, w.UnixNanos).Sub(middle)
	a.offset.Store(int64(offset))
	if a.deps.Welcome != nil {
		a.deps.Welcome(w)
	}
	a.setStatus(true, nil)
	a.deps.Log.Info("session with the controller", "version", w.Version, "protocol", w.Protocol, "name", w.Name, "offset", offset.Round(time.Millisecond))
}

// session is one stream after its welcome.
type session struct {
	agent     *Agent
	stream    *stream
	heartbeat time.Duration
	heard     atomic.Int64 // unix nanoseconds, local clock

	complete bool // the inventory is

	// What has been reported in this session.
	facts     *wirepb.HostFacts
	workloads map[string]*wirepb.Workload
	sections  map[string]*wirepb.SectionStatus
	lines     *wirepb.LineReport
	turns     *wirepb.ProbeReport

	flow      *wirepb.FlowAck // the last batch that was sent, nil for none
	underway  atomic.Int32    // batches that were sent and are not acknowledged
	flowAcked chan struct{}   // holds one

	looks chan *wirepb.SampleRequest // holds the last one
}

// maxUnderway is how many batches of flows wait for the controller at a time.
const maxUnderway = 8

func (s *session) serve(ctx context.Context, cancel context.CancelCauseFunc) error {
	began := time.Now()
	s.heard.Store(0)
	var parts sync.WaitGroup
	parts.Go(func() { cancel(s.receive(began)) })
	parts.Go(func() { cancel(s.send(ctx)) })
	parts.Go(func() { cancel(s.listen(ctx, began)) })
	parts.Wait()
	if c := s.agent.deps.Captures; c != nil {
		c.HangUp()
	}
	if p := s.agent.deps.Probes; p != nil {
		p.HangUp()
	}
	return context.Cause(ctx)
}

// listen ends the session when the controller has been silent for too long. It
// measures on the monotonic clock: a clock that is set must end no session.
func (s *session) listen(ctx context.Context, began time.Time) error {
	tick := time.NewTicker(s.heartbeat / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			if silent := time.Since(began) - time.Duration(s.heard.Load()); silent > missedBeats*s.heartbeat {
				return fmt.Errorf("the controller has been silent for %s", silent.Round(time.Millisecond))
			}
		}
	}
}

func (s *session) receive(began time.Time) error {
	for {
		m, err := s.stream.Receive()
		if err != nil {
			return err
		}
		s.heard.Store(int64(time.Since(began)))
		if section := m.GetSection(); section != nil {
			s.agent.applier.receive(section)
		}
		if r := m.GetSamples(); r != nil && s.agent.deps.Samples != nil {
			select {
			case <-s.looks: // nobody has taken it yet: only the last counts
			default:
			}
			s.looks <- r
		}
		if c := s.agent.deps.Captures; c != nil {
			if o := m.GetCaptures(); o != nil {
				c.Want(o)
			}
			if a := m.GetCaptured(); a != nil {
				c.Acknowledge(a)
			}
		}
		if o := m.GetProbes(); o != nil && s.agent.deps.Probes != nil {
			s.agent.deps.Probes.Want(o)
		}
		if ack := m.GetFlows(); ack != nil && s.agent.deps.Flows != nil {
			s.agent.deps.Flows.Acknowledge(ack)
			s.underway.Add(-1)
			select {
			case s.flowAcked <- struct{}{}:
			default:
			}
		}
	}
}

// send is the only one who writes after Hello.
func (s *session) send(ctx context.Context) error {
	a := s.agent
	beat, lines := time.NewTicker(s.heartbeat), time.NewTicker(linesEvery)
	defer beat.Stop()
	defer lines.Stop()
	s.sections = map[string]*wirepb.SectionStatus{}
	looked := newLooking(a.deps.Samples)
	defer looked.stop()
	var captured <-chan *wirepb.CapturePiece
	if a.deps.Captures != nil {
		captured = a.deps.Captures.Pieces()
	}
	var probed <-chan *wirepb.ProbeProgress
	if a.deps.Probes != nil {
		probed = a.deps.Probes.Progress()
	}
	complete := a.deps.Inventory.Complete()
	select {
	case <-complete:
		complete, s.complete = nil, true
	default:
	}
	for {
		// Taken before looking, so that no change between falls through.
		inventory, applied, conditions, flows := a.deps.Inventory.Changed(), a.applier.changes(), a.conditionChanges(), s.flowsArrived()
		if err := errors.Join(s.report(), s.reportFlows()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-complete:
			complete, s.complete = nil, true
		case <-inventory:
		case <-applied:
		case <-conditions:
		case <-flows:
		case <-s.flowAcked:
		case r := <-s.looks:
			looked.want(r)
		case <-looked.due():
			looked.begin()
		case x := <-looked.came:
			if err := s.reportSample(looked, x); err != nil {
				return err
			}
		case p := <-captured:
			if err := s.stream.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Capture{Capture: p}}); err != nil {
				return err
			}
		case p := <-probed:
			if err := s.stream.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Probe{Probe: p}}); err != nil {
				return err
			}
		case <-lines.C:
			a.checkIdentity()
			if err := errors.Join(s.reportLines(), s.reportPolicy(), s.reportTurns()); err != nil {
				return err
			}
		case <-beat.C:
			if err := s.stream.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Heartbeat{Heartbeat: &wirepb.Heartbeat{UnixNanos: a.cfg.Now().UnixNano()}}}); err != nil {
				return err
			}
		}
	}
}

// report sends what has changed since it was last sent in this session.
func (s *session) report() error {
	if s.complete {
		if err := s.reportInventory(); err != nil {
			return err
		}
	}
	for _, st := range s.agent.applier.statuses() {
		if proto.Equal(st, s.sections[st.Name]) {
			continue
		}
		if st.Name == "probe" { // whoever is told that it holds is not to see turns of before
			if err := s.reportTurns(); err != nil {
				return err
			}
		}
		if err := s.stream.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Section{Section: st}}); err != nil {
			return err
		}
		s.sections[st.Name] = st
	}
	return nil
}

func (s *session) reportInventory() error {
	facts, workloads := s.agent.deps.Inventory.Snapshot()
	facts = s.agent.dress(facts)
	if !proto.Equal(facts, s.facts) {
		if err := s.stream.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Facts{Facts: facts}}); err != nil {
			return err
		}
		s.facts = facts
	}
	if u := s.difference(workloads); u != nil {
		return s.stream.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Workloads{Workloads: u}})
	}
	return nil
}

// difference is what to send so that the controller knows these workloads: all
// of them in a session's first report, then only the changes; nil for none.
func (s *session) difference(workloads []*wirepb.Workload) *wirepb.WorkloadUpdate {
	u := &wirepb.WorkloadUpdate{Full: s.workloads == nil}
	next := make(map[string]*wirepb.Workload, len(workloads))
	for _, w := range workloads {
		next[w.Id] = w
		if !proto.Equal(w, s.workloads[w.Id]) {
			u.Upserts = append(u.Upserts, w)
		}
	}
	for id := range s.workloads {
		if next[id] == nil {
			u.Deletes = append(u.Deletes, id)
		}
	}
	s.workloads = next
	if !u.Full && len(u.Upserts)+len(u.Deletes) == 0 {
		return nil
	}
	return u
}

func (s *session) reportLines() error {
	if s.agent.deps.Lines == nil {
		return nil
	}
	lines := s.agent.deps.Lines()
	if lines == nil || proto.Equal(lines, s.lines) {
		return nil
	}
	s.lines = lines
	return s.stream.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Lines{Lines: lines}})
}

func (s *session) reportTurns() error {
	if s.agent.deps.Turns == nil {
		return nil
	}
	turns := s.agent.deps.Turns()
	if proto.Equal(turns, s.turns) {
		return nil
	}
	s.turns = turns
	return s.stream.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Probes{Probes: turns}})
}

func (s *session) reportPolicy() error {
	policy := s.agent.deps.Policy
	if policy == nil {
		return nil
	}
	r := policy.Report()
	if r == nil {
		return nil
	}
	err := s.stream.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Policy{Policy: r}})
	if err != nil {
		policy.Restore(r)
	}
	return err
}

func (s *session) flowsArrived() <-chan struct{} {
	if s.agent.deps.Flows == nil {
		return nil
	}
	return s.agent.deps.Flows.Arrived()
}

// reportFlows sends the batches that the controller has room for. They wait for
// the inventory, by which it knows whose they are.
func (s *session) reportFlows() error {
	if s.agent.deps.Flows == nil || !s.complete {
		return nil
	}
	for s.underway.Load() < maxUnderway {
		b, err := s.agent.deps.Flows.Next(s.flow)
		if err != nil {
			s.agent.deps.Log.Warn("a batch of flows is lost", "error", err)
		}
		if b == nil {
			return nil // none, or the next is for another time
		}
		if err := s.stream.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Flows{Flows: b}}); err != nil {
			return err
		}
		s.flow = &wirepb.FlowAck{Epoch: b.Epoch, Number: b.Number}
		s.underway.Add(1)
	}
	return nil
}

// dress adds to the facts what the agent knows of itself.
func (a *Agent) dress(facts *wirepb.HostFacts) *wirepb.HostFacts {
	facts = proto.CloneOf(facts)
	facts.CallerKey = a.deps.CallerKey
	if a.deps.CertificateExpires != nil {
		if t := a.deps.CertificateExpires(); !t.IsZero() {
			facts.CertificateExpires = t.Unix()
		}
	}
	if a.deps.Policy != nil {
		facts.Conditions = append(facts.Conditions, a.deps.Policy.Conditions()...)
	}
	if a.deps.Alerts != nil {
		facts.Conditions = append(facts.Conditions, a.deps.Alerts()...)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, typ := range []string{ConditionStateDamaged, ConditionStateNotSaved, ConditionIdentity} {
		if c := a.conditions[typ]; c != nil {
			facts.Conditions = append(facts.Conditions, c)
		}
	}
	return facts
}

func (a *Agent) checkIdentity() {
	if a.deps.Problem == nil {
		return
	}
	if err := a.deps.Problem(); err != nil {
		a.condition(ConditionIdentity, err.Error())
	} else {
		a.condition(ConditionIdentity, "")
	}
}

func (a *Agent) conditionChanges() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}
