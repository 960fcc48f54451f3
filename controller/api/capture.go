package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"weft/controller/captures"
	"weft/controller/filter"
	"weft/controller/flowstore"
	"weft/controller/plan"
	"weft/controller/store"
	"weft/model"
	"weft/wire/wirepb"
)

// The most that a capture may be asked for.
const (
	maxCaptureFor  = 24 * time.Hour
	maxCaptureRate = 1_000_000_000
)

type captureInput struct {
	Selector string `query:"labelSelector" doc:"Workloads with these labels."`
	Group    string `query:"group" doc:"The members of this group."`
	Host     string `query:"host" doc:"This machine, at its own interfaces."`
	Flow     uint64 `query:"flow" doc:"Both ends of this flow's connection, and only its packets."`
	Filter   string `query:"filter" doc:"A pcap-filter(7) expression."`
	Since    string `query:"since" doc:"What rings of the hosts have kept since so long ago, as 5m or 24h, before what comes."`
	Until    string `query:"until" doc:"Of that, what was until so long ago."`
	Ring     string `query:"ring" doc:"Of that, only what this tap's ring has kept."`
	For      string `query:"for" doc:"How long, at most 24h; 1m unless given, and no time where since is."`
	Packets  uint64 `query:"packets" minimum:"1" maximum:"100000000" default:"1000000" doc:"So many at most, of all hosts together."`
	Bytes    uint64 `query:"bytes" minimum:"1" maximum:"100000000000" default:"104857600" doc:"So many at most, of frames as kept, of all hosts together."`
	Snaplen  uint32 `query:"snaplen" maximum:"65535" doc:"So much of each frame; 0 is all."`
	Rate     uint64 `query:"rate" minimum:"1000" maximum:"1000000000" default:"20000000" doc:"Bits a second at most, shared among the hosts."`
	Force    bool   `query:"force" doc:"Also workloads of groups whose flows are Off or Unnamed."`
}

type captureID struct {
	ID string `path:"id"`
}

// CaptureFigures are what has come of a capture that runs.
type CaptureFigures struct {
	Items []captures.Figures `json:"items" nullable:"false"`
}

// CaptureHeader names the capture in an answer.
const CaptureHeader = "Weft-Capture"

func (a *API) registerCapture() {
	op := huma.Operation{OperationID: "capture", Method: http.MethodPost, Path: "/api/v1/captures", Tags: []string{"Flows"}, Summary: "Capture packets of workloads on many hosts, as one pcapng",
		Description: "The answer is the file, as it comes; the header Weft-Capture has its ID. It ends by itself at the first of its limits, or when it is deleted. For admins; it is in the audit log."}
	handle(a, op, func(ctx context.Context, in *captureInput) (*watchOutput, error) {
		if a.captures == nil {
			return nil, problem(http.StatusNotFound, "this controller captures nothing")
		}
		spec, err := a.captureSpec(ctx, in)
		if err != nil {
			return nil, err
		}
		names := []string{}
		for _, t := range spec.Targets {
			for _, w := range t.Workloads {
				names = append(names, w.Metadata.Name)
			}
		}
		slices.Sort(names)
		// Nothing is captured of which nothing is written down.
		by := callerOf(ctx)
		about := fmt.Sprintf("of %s, filter %q, for %s, at most %d packets, snaplen %d, forced: %t", shorten(names), spec.Targets[0].Line.Filter, spec.For, spec.Packets, in.Snaplen, in.Force)
		if spec.Past > 0 {
			about += fmt.Sprintf(", what rings have kept since %s ago", spec.Past)
		}
		x, err := a.captures.Start(*spec)
		if err != nil {
			return nil, problem(http.StatusServiceUnavailable, "%v", err)
		}
		if err := a.store.Note(ctx, by.change(), "capture", "Capture", strconv.FormatUint(x.ID, 10), about); err != nil {
			x.Cancel()
			return nil, err
		}
		return &watchOutput{ContentType: "application/x-pcapng", Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			w.Header().Set("Content-Type", "application/x-pcapng")
			w.Header().Set(CaptureHeader, strconv.FormatUint(x.ID, 10))
			rc := http.NewResponseController(w)
			_ = rc.SetWriteDeadline(time.Now().Add(spec.For + writeWithin(spec))) // not every writer has one
			w.WriteHeader(http.StatusOK)
			rc.Flush() //nolint:errcheck // the next write says it
			if err := x.Run(r.Context(), w, rc.Flush); err != nil {
				a.log.Warn("a capture ended early", "capture", x.ID, "error", err)
			}
			a.noteCaptured(by.change(), x)
		}}, nil
	})
	a.huma.OpenAPI().Paths[op.Path].Post.Responses["200"] = &huma.Response{Description: "The file.", Content: map[string]*huma.MediaType{"application/x-pcapng": {}}}
	handle(a, huma.Operation{OperationID: "getCapture", Method: http.MethodGet, Path: "/api/v1/captures/{id}", Tags: []string{"Flows"}, Summary: "What has come of a capture that runs, or has just ended, by host"},
		func(_ context.Context, in *captureID) (*output[CaptureFigures], error) {
			id, _ := strconv.ParseUint(in.ID, 10, 64)
			if a.captures != nil {
				if x := a.captures.Get(id); x != nil {
					return &output[CaptureFigures]{CaptureFigures{x.Figures()}}, nil
				}
			}
			return nil, problem(http.StatusNotFound, "capture %s does not run, nor has it just ended", in.ID)
		})
	handle(a, huma.Operation{OperationID: "endCapture", Method: http.MethodDelete, Path: "/api/v1/captures/{id}", Tags: []string{"Flows"}, Summary: "End a capture; its file is ended as a whole one", DefaultStatus: http.StatusNoContent},
		func(_ context.Context, in *captureID) (*struct{}, error) {
			id, _ := strconv.ParseUint(in.ID, 10, 64)
			if a.captures == nil || !a.captures.Stop(id) {
				return nil, problem(http.StatusNotFound, "no capture %s is running", in.ID)
			}
			return nil, nil
		})
}

// noteCaptured writes down what came of a capture.
func (a *API) noteCaptured(by store.Change, x *captures.Capture) {
	var packets, bytes uint64
	for _, f := range x.Figures() {
		packets, bytes = packets+f.Packets, bytes+f.Bytes
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := a.store.Note(ctx, by, "captured", "Capture", strconv.FormatUint(x.ID, 10), fmt.Sprintf("%d packets, %d bytes", packets, bytes)); err != nil {
		a.log.Error("write the audit log", "error", err)
	}
}

// captureSpec finds the workloads and their hosts.
func (a *API) captureSpec(ctx context.Context, in *captureInput) (*captures.Spec, error) {
	spec := &captures.Spec{Packets: in.Packets, Bytes: in.Bytes, Rate: in.Rate}
	if err := a.captureTimes(ctx, in, spec); err != nil {
		return nil, err
	}
	workloads, expression, err := a.captured(ctx, in)
	if err != nil {
		return nil, err
	}
	if !in.Force {
		if err := a.private(ctx, workloads); err != nil {
			return nil, err
		}
	}
	var program filter.Program
	if expression != "" {
		if program, err = filter.Compile(expression); err != nil {
			return nil, model.FieldErrors{{Field: "query.filter", Message: err.Error()}}
		}
	}
	byHost := map[string]*captures.Target{}
	var order []string
	for _, w := range workloads {
		t := byHost[w.Spec.Host]
		if t == nil {
			uid, _, _ := strings.Cut(w.Metadata.UID, "/")
			t = &captures.Target{UID: uid, Host: w.Spec.Host, Workloads: map[string]*model.Workload{}, Line: &wirepb.CaptureLine{
				Filter: expression, FilterEthernet: program.Ethernet, FilterRaw: program.Raw, Snaplen: in.Snaplen, Ingress: true, Egress: true}}
			byHost[w.Spec.Host] = t
			order = append(order, w.Spec.Host)
		}
		id := plan.WorkloadID(w)
		if t.Workloads[id] == nil {
			t.Workloads[id] = w
			t.Line.Workloads = append(t.Line.Workloads, id)
		}
	}
	if len(order) > captures.MaxHosts {
		return nil, problem(http.StatusUnprocessableEntity, "the workloads are on %d hosts, a capture takes %d; name fewer, or make a tap", len(order), captures.MaxHosts)
	}
	slices.Sort(order)
	for _, h := range order {
		spec.Targets = append(spec.Targets, *byHost[h])
	}
	return spec, nil
}

// captureTimes reads when the packets are from.
func (a *API) captureTimes(ctx context.Context, in *captureInput, spec *captures.Spec) error {
	ago := func(field, text string) (time.Duration, error) {
		d, err := time.ParseDuration(text)
		if err != nil || d < time.Millisecond || d > model.MaxRingAge {
			return 0, model.FieldErrors{{Field: "query." + field, Message: fmt.Sprintf("%q is no duration up to %s; write it like 5m or 24h", text, model.MaxRingAge)}}
		}
		return d, nil
	}
	var err error
	if in.Since != "" {
		if spec.Past, err = ago("since", in.Since); err != nil {
			return err
		}
	}
	if in.Until != "" {
		if spec.Until, err = ago("until", in.Until); err != nil {
			return err
		}
		if in.Since == "" || spec.Until >= spec.Past || in.For != "" {
			return model.FieldErrors{{Field: "query.until", Message: "it goes with a since that is longer ago, and without for"}}
		}
	}
	if in.Ring != "" {
		r, err := a.store.Get(ctx, model.KindTap, in.Ring)
		if err != nil {
			return err
		}
		t := r.(*model.Tap)
		if t.Spec.Ring == nil || in.Since == "" {
			return model.FieldErrors{{Field: "query.ring", Message: fmt.Sprintf("it names a tap with spec.ring, and goes with since; tap %s is not asked so", in.Ring)}}
		}
		spec.Ring = plan.LineID(t.Metadata.UID, "")
	}
	if in.For == "" && in.Since != "" {
		return nil
	}
	long, err := time.ParseDuration(cmp.Or(in.For, "1m"))
	if err != nil || long <= 0 || long > maxCaptureFor {
		return model.FieldErrors{{Field: "query.for", Message: fmt.Sprintf("%q is no duration up to %s", in.For, maxCaptureFor)}}
	}
	spec.For = long
	return nil
}

// writeWithin is how much longer than it captures a capture may take to write: what
// rings have kept comes at its rate.
func writeWithin(s *captures.Spec) time.Duration {
	const least = 5 * time.Minute
	if s.Past == 0 {
		return least
	}
	return least + time.Duration(float64(s.Bytes)*8/float64(s.Rate)*1.5*float64(time.Second))
}

// captured are the workloads that a question names, and the filter.
func (a *API) captured(ctx context.Context, in *captureInput) (out []*model.Workload, expression string, err error) {
	expression = in.Filter
	named := 0
	for _, given := range []bool{in.Selector != "", in.Group != "", in.Host != "", in.Flow != 0} {
		if given {
			named++
		}
	}
	if named != 1 {
		return nil, "", problem(http.StatusBadRequest, "say whose packets: one of labelSelector, group, host and flow")
	}
	is := func(*model.Workload) bool { return false }
	switch {
	case in.Group != "":
		if out, err = a.seen.Members(model.GroupSpec{Groups: []string{in.Group}}); err != nil {
			return nil, "", model.FieldErrors{{Field: "query.group", Message: err.Error()}}
		}
	case in.Selector != "":
		sel, err := parseSelector("labelSelector", in.Selector)
		if err != nil {
			return nil, "", err
		}
		is = func(w *model.Workload) bool { return sel.Matches(w.Metadata.Labels) }
	case in.Host != "":
		is = func(w *model.Workload) bool { return w.Spec.Host == in.Host && w.Spec.Kind == model.WorkloadHost }
	default:
		if a.flows == nil {
			return nil, "", problem(http.StatusNotFound, "this controller keeps no flows")
		}
		c, err := a.flows.Explain(ctx, in.Flow)
		if errors.Is(err, flowstore.ErrNoFlow) {
			return nil, "", problem(http.StatusNotFound, "flow %d is not kept, or not any more; weft flows -o wide shows IDs", in.Flow)
		}
		if err != nil {
			return nil, "", err
		}
		if expression = flowFilter(c); in.Filter != "" {
			expression = "(" + expression + ") and (" + in.Filter + ")"
		}
		is = func(w *model.Workload) bool {
			return w.Metadata.Name != "" && (w.Metadata.Name == c.Client.Workload || w.Metadata.Name == c.Server.Workload)
		}
	}
	for _, w := range a.seen.Workloads() {
		if is(w) {
			out = append(out, w)
		}
	}
	if len(out) == 0 {
		return nil, "", problem(http.StatusNotFound, "that is no workload with an agent; weft get workloads shows what there is")
	}
	return out, expression, nil
}

// private refuses workloads of which less is to be told than packets say.
func (a *API) private(ctx context.Context, workloads []*model.Workload) error {
	groups, _, err := a.list(ctx, model.MustKind(model.KindGroup), nil)
	if err != nil {
		return err
	}
	for _, r := range groups {
		g := r.(*model.Group)
		if g.Spec.Flows != model.FlowsOff && g.Spec.Flows != model.FlowsUnnamed {
			continue
		}
		members, err := a.seen.Members(g.Spec)
		if err != nil {
			return err
		}
		for _, w := range workloads {
			if slices.ContainsFunc(members, func(m *model.Workload) bool { return m.Metadata.Name == w.Metadata.Name }) {
				return problem(http.StatusConflict, "%s is in group %s, whose flows are %s: its packets are not captured unless forced, which the audit log says", w.Metadata.Name, g.Metadata.Name, g.Spec.Flows)
			}
		}
	}
	return nil
}

// flowFilter takes a connection's packets as either end sees them.
func flowFilter(c *flowstore.Connection) string {
	var ways []string
	add := func(client, server flowstore.End) {
		a, b := netip.AddrPortFrom(client.Address.Unmap(), client.Port), netip.AddrPortFrom(server.Address.Unmap(), server.Port)
		protocol := fmt.Sprintf("ip proto %d", c.Protocol)
		if a.Addr().Is6() {
			protocol = fmt.Sprintf("ip6 proto %d", c.Protocol)
		}
		way := func(a, b netip.AddrPort) string {
			text := fmt.Sprintf("(%s and src host %s and dst host %s", protocol, a.Addr(), b.Addr())
			if c.Protocol == 6 || c.Protocol == 17 {
				text += fmt.Sprintf(" and src port %d and dst port %d", a.Port(), b.Port())
			}
			return text + ")"
		}
		for _, text := range []string{way(a, b), way(b, a)} {
			if !slices.Contains(ways, text) {
				ways = append(ways, text)
			}
		}
	}
	for _, r := range []*flowstore.Report{c.AtClient, c.AtServer} {
		if r != nil {
			add(r.Client, r.Server)
		}
	}
	return strings.Join(ways, " or ")
}
