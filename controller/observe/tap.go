package observe

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"weft/controller/plan"
	"weft/model"
	"weft/wire"
	"weft/wire/wirepb"
)

// The states of a tap's parts.
const (
	statePending    = "Pending"
	stateError      = "Error"
	stateOffline    = "Offline"
	stateCapturing  = "Capturing"
	stateReady      = "Ready"
	stateConnecting = "Connecting"
	stateConnected  = "Connected"
)

// TapStatus sums up what the hosts at both ends report of a tap. It is of the
// plan in force: a tap written a moment ago is Pending.
func (o *Observer) TapStatus(t *model.Tap) model.TapStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	var p *plan.Tap
	if o.plan != nil {
		p = o.plan.Taps[t.Metadata.Name]
	}
	if p == nil || p.UID != t.Metadata.UID {
		return model.TapStatus{State: model.TapPending, Message: "not planned yet"}
	}
	st := model.TapStatus{Message: strings.Join(p.Problems, "; ")}
	if t.Spec.Paused {
		st.State = model.TapPaused
		return st
	}
	for _, s := range p.Sources {
		st.Sources = append(st.Sources, o.source(p, s))
	}
	for _, tool := range p.Tools {
		if p.Ring {
			continue
		}
		st.Tools = append(st.Tools, o.tool(t, p, tool))
	}
	st.Paths = o.paths(p)
	for _, path := range st.Paths {
		st.Ledger = st.Ledger.Add(path.Ledger)
	}
	st.State = sumUp(p, st)
	if st.Message == "" && st.State != model.TapActive {
		st.Message = why(st)
	}
	return st
}

// source is one workload's state toward all tools: the worst of them.
func (o *Observer) source(p *plan.Tap, s plan.Source) model.TapSource {
	out := model.TapSource{Workload: s.Workload, Host: s.Host, State: stateCapturing}
	h, state, message := o.applied(s.Host, plan.SectionCapture)
	if state != "" {
		out.State, out.Message = state, message
		return out
	}
	for _, tool := range p.Tools {
		if tool == s.Host {
			continue
		}
		state, message := item(h.sections[plan.SectionCapture], plan.LineID(p.UID, tool)+"/"+s.ID)
		if state == "" || state == stateCapturing {
			continue
		}
		if out.State != stateError {
			out.State, out.Message = state, message
		}
	}
	return out
}

func (o *Observer) tool(t *model.Tap, p *plan.Tap, tool string) model.TapTool {
	out := model.TapTool{Host: tool, Device: cmp.Or(t.Spec.Deliver.Device, model.DefaultDevice), State: stateReady}
	h, state, message := o.applied(tool, plan.SectionDeliver)
	if state != "" {
		out.State, out.Message = state, message
		return out
	}
	st, line := h.sections[plan.SectionDeliver], plan.LineID(p.UID, tool)
	if st.GetError() != "" {
		out.State, out.Message = stateError, st.GetError()
	}
	for _, i := range st.GetItems() {
		if i.Item != line && !strings.HasPrefix(i.Item, line+"/") {
			continue
		}
		// What is said of this line itself goes over what is said of the section.
		out.State, out.Message = cmp.Or(i.State, stateReady), i.Message
		if i.State == stateError {
			break
		}
	}
	return out
}

// paths lists a stream for every source host and tool, reported or not.
func (o *Observer) paths(p *plan.Tap) []model.TapPath {
	var out []model.TapPath
	hosts := map[string]bool{}
	for _, s := range p.Sources {
		if hosts[s.Host] {
			continue
		}
		hosts[s.Host] = true
		for _, tool := range p.Tools {
			if tool == s.Host {
				continue
			}
			path := model.TapPath{Host: s.Host, Tool: tool, State: stateConnecting}
			if h := o.byName(s.Host); h != nil {
				if l := h.lines[plan.LineID(p.UID, tool)]; l != nil {
					readLine(&path, l)
				}
				path.Ring = h.ring(plan.LineID(p.UID, tool))
				if !h.online {
					path.Message = strings.TrimPrefix(path.Message+"; the source's agent has no session: this is its last report", "; ")
				}
			}
			out = append(out, path)
		}
	}
	slices.SortFunc(out, func(a, b model.TapPath) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Tool, b.Tool))
	})
	return out
}

func readLine(path *model.TapPath, l *wirepb.LineStatus) {
	path.State, path.Path, path.Relay, path.Remote, path.Message = cmp.Or(l.State, stateConnecting), l.Path, l.Relay, l.Remote, l.Message
	path.Ledger = wire.LedgerToModel(l.Ledger)
	if l.Since != 0 {
		path.Since = stamp(time.Unix(l.Since, 0))
	}
}

// sumUp makes one word of the parts.
func sumUp(p *plan.Tap, st model.TapStatus) model.TapState {
	if p.Refused {
		return model.TapError
	}
	if len(st.Sources) == 0 || len(p.Tools) == 0 {
		return model.TapPending
	}
	var good, bad, pending int
	count := func(state, want string) {
		switch state {
		case want:
			good++
		case statePending, stateConnecting:
			pending++
		default:
			bad++
		}
	}
	for _, s := range st.Sources {
		count(s.State, stateCapturing)
	}
	for _, t := range st.Tools {
		count(t.State, stateReady)
	}
	delivering := 0
	for _, path := range st.Paths {
		count(path.State, stateConnected)
		if path.State == stateConnected {
			delivering++
		}
	}
	switch {
	case bad+pending == 0:
		return model.TapActive
	case delivering > 0:
		return model.TapDegraded
	case bad > 0:
		return model.TapError
	}
	return model.TapPending
}

// why names the first part that is not as it should be.
func why(st model.TapStatus) string {
	for _, t := range st.Tools {
		if t.State != stateReady {
			return part("tool "+t.Host, t.State, t.Message)
		}
	}
	for _, s := range st.Sources {
		if s.State != stateCapturing {
			return part("source "+s.Workload, s.State, s.Message)
		}
	}
	for _, p := range st.Paths {
		if p.State != stateConnected {
			return part("path "+p.Host+" -> "+cmp.Or(p.Tool, "ring"), p.State, p.Message)
		}
	}
	return ""
}

func part(what, state, message string) string {
	if message == "" {
		return fmt.Sprintf("%s is %s", what, strings.ToLower(state))
	}
	return fmt.Sprintf("%s is %s: %s", what, strings.ToLower(state), message)
}
