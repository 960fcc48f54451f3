package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"weft/controller/probes"
	"weft/controller/store"
	"weft/model"
	"weft/wire/wirepb"
)

type probeInput struct {
	Hosts       []string `query:"host,explode" doc:"The hosts that ask; may be repeated."`
	Group       string   `query:"group" doc:"The hosts of this group's members ask."`
	Kind        string   `query:"kind" required:"true" enum:"http,tcp,dns,icmp"`
	Target      string   `query:"target" required:"true" doc:"A URL for http, HOST:PORT for tcp, NAME@SERVER[:PORT] for dns, HOST for icmp, as the hosts know them."`
	Concurrency uint32   `query:"concurrency" minimum:"1" maximum:"256" default:"10" doc:"Questions at one time, of each host."`
	Count       uint64   `query:"count" maximum:"1000000" default:"1000" doc:"Questions in all, of each host; 0 is as many as the time has room for."`
	Rate        float64  `query:"rate" doc:"Questions a second, of each host, each due at its time; at most 5000, by tcp 200. 0 is as fast as answers come."`
	Timeout     string   `query:"timeout" default:"10s" doc:"How long an answer is waited for, at most 1m."`
	Time        string   `query:"time" default:"10m" doc:"How long at most, at most 10m."`
	Expect      string   `query:"expect" doc:"Statuses of http that are good answers, as 200, 2xx or 200,301-308; all below 400 unless given."`
}

// ProbeRun is how far a probe is. The last has over.
type ProbeRun struct {
	Hosts []probes.Part `json:"hosts" nullable:"false"`
	Over  bool          `json:"over"`
}

// listenWithin is how long whoever listens to a probe may take to read what is said.
const listenWithin = 15 * time.Second

func (a *API) registerProbeRun() {
	op := huma.Operation{OperationID: "runProbe", Method: http.MethodPost, Path: "/api/v1/proberuns", Tags: []string{"Probe"}, Summary: "Ask a service many times from hosts",
		Description: "The answer is a JSON document a line, each second, with what has come until then; the last has over. The hosts stop when nobody reads it any more, and keep limits of their own. For admins; it is in the audit log."}
	handle(a, op, func(ctx context.Context, in *probeInput) (*watchOutput, error) {
		if a.probes == nil {
			return nil, problem(http.StatusNotFound, "this controller has no host probe")
		}
		spec, err := in.spec()
		if err != nil {
			return nil, err
		}
		targets, names, err := a.probing(ctx, in)
		if err != nil {
			return nil, err
		}
		x, err := a.probes.Start(targets, spec)
		if err != nil {
			return nil, problem(http.StatusServiceUnavailable, "%v", err)
		}
		// Nothing is asked of which nothing is written down.
		by := callerOf(ctx)
		about := fmt.Sprintf("%s %s from %s, %d questions, %d at a time, %g a second, for %s", spec.Kind, spec.Target, shorten(names), spec.Count, spec.Concurrency, spec.Rate, time.Duration(spec.TimeMillis)*time.Millisecond)
		if err := a.store.Note(ctx, by.change(), "probe", "ProbeRun", strconv.FormatUint(x.ID, 10), about); err != nil {
			x.Cancel()
			return nil, err
		}
		return &watchOutput{ContentType: "application/x-ndjson", Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			w.Header().Set("Content-Type", "application/x-ndjson")
			rc, lines := http.NewResponseController(w), json.NewEncoder(w)
			err := x.Run(r.Context(), func(parts []probes.Part, over bool) error {
				_ = rc.SetWriteDeadline(time.Now().Add(listenWithin)) // not every writer has one
				if err := lines.Encode(ProbeRun{parts, over}); err != nil {
					return err
				}
				return rc.Flush()
			})
			if err != nil {
				a.log.Info("nobody listens to a probe any more; it has ended", "probe", x.ID, "error", err)
			}
			a.noteProbed(by.change(), x)
		}}, nil
	})
	a.huma.OpenAPI().Paths[op.Path].Post.Responses["200"] = &huma.Response{Description: "How far it is, again and again.", Content: map[string]*huma.MediaType{
		"application/x-ndjson": {Schema: a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[ProbeRun](), true, "")},
	}}
}

// noteProbed writes down what came of a probe.
func (a *API) noteProbed(by store.Change, x *probes.Probe) {
	var asked, answered, bytes uint64
	for _, p := range x.Parts() {
		if r := p.Result; r != nil {
			asked, answered, bytes = asked+r.Asked, answered+r.OK, bytes+r.Bytes
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := a.store.Note(ctx, by, "probed", "ProbeRun", strconv.FormatUint(x.ID, 10), fmt.Sprintf("%d asked, %d answered, %d bytes", asked, answered, bytes)); err != nil {
		a.log.Error("write the audit log", "error", err)
	}
}

// spec checks what is asked for. Hosts check it again, for themselves.
func (in *probeInput) spec() (*wirepb.ProbeSpec, error) {
	var e model.FieldErrors
	fault := func(field, format string, args ...any) {
		e = append(e, model.FieldError{Field: "query." + field, Message: fmt.Sprintf(format, args...)})
	}
	duration := func(field, text string, most time.Duration) time.Duration {
		d, err := time.ParseDuration(text)
		if err != nil || d < time.Millisecond || d > most {
			fault(field, "%q is no duration from 1ms to %s", text, most)
		}
		return d
	}
	kind := model.ProbeKind(in.Kind)
	if err := model.CheckProbeTarget(kind, in.Target); err != nil {
		fault("target", "%v", err)
	}
	if _, err := model.ParseStatuses(in.Expect); err != nil {
		fault("expect", "%v", err)
	} else if in.Expect != "" && kind != model.ProbeHTTP {
		fault("expect", "is for http; %s has no status", kind)
	}
	most := float64(model.MaxProbeRate)
	if kind == model.ProbeTCP {
		most = model.MaxProbeConnects
	}
	if math.IsNaN(in.Rate) || in.Rate < 0 || in.Rate > most {
		fault("rate", "%g: a host asks %g a second at most by %s; 0 is as fast as answers come", in.Rate, most, kind)
	}
	timeout, whole := duration("timeout", in.Timeout, model.MaxProbeTimeout), duration("time", in.Time, model.MaxProbeTime)
	if err := e.OrNil(); err != nil {
		return nil, err
	}
	return &wirepb.ProbeSpec{Kind: in.Kind, Target: in.Target, Concurrency: in.Concurrency, Count: in.Count, Rate: in.Rate,
		TimeoutMillis: uint64(timeout.Milliseconds()), TimeMillis: uint64(whole.Milliseconds()), Expect: in.Expect}, nil
}

// probing finds the hosts that are to ask.
func (a *API) probing(ctx context.Context, in *probeInput) (out []probes.Target, names []string, err error) {
	names = slices.Clone(in.Hosts)
	if in.Group != "" {
		members, err := a.seen.Members(model.GroupSpec{Groups: []string{in.Group}})
		if err != nil {
			return nil, nil, model.FieldErrors{{Field: "query.group", Message: err.Error()}}
		}
		for _, w := range members {
			names = append(names, w.Spec.Host)
		}
		if len(names) == 0 {
			return nil, nil, problem(http.StatusNotFound, "group %s has no members now; weft get groups shows how many there are", in.Group)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	switch {
	case len(names) == 0:
		return nil, nil, problem(http.StatusBadRequest, "say who asks: host or group")
	case len(names) > probes.MaxHosts:
		return nil, nil, problem(http.StatusUnprocessableEntity, "%d hosts would ask, %d can at one time; name fewer, or schedule it: kind Probe", len(names), probes.MaxHosts)
	}
	for _, name := range names {
		r, err := a.get(ctx, model.MustKind(model.KindHost), name)
		if err != nil {
			return nil, nil, err
		}
		h := r.(*model.Host)
		out = append(out, probes.Target{UID: h.Metadata.UID, Host: name, Online: h.Status.State == model.HostOnline})
	}
	slices.SortFunc(out, func(a, b probes.Target) int { return cmp.Compare(a.Host, b.Host) })
	return out, names, nil
}
