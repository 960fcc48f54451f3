package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"weft/controller/samples"
	"weft/model"
)

// HostSample is what a host's agent said last of its machine.
type HostSample struct {
	// Sample is absent where the agent has not answered yet.
	Sample *model.Sample `json:"sample,omitempty"`
	// Number grows with each sample: ask with after=this for the next.
	Number uint64 `json:"number" doc:"Ask with after=this for the next sample."`
	// Age is how many seconds ago it came.
	Age   float64         `json:"age" doc:"Seconds since it came."`
	State model.HostState `json:"state"`
}

// GlanceList is the fleet at a glance.
type GlanceList struct {
	Items []model.Glance `json:"items" nullable:"false"`
}

type sampleInput struct {
	Name      string `path:"name"`
	Interval  string `query:"interval" default:"2s" doc:"The time between two samples: the agent goes on sampling so for a while."`
	Processes int    `query:"processes" minimum:"0" maximum:"2000" default:"500" doc:"How many processes, the heaviest."`
	After     uint64 `query:"after" doc:"Wait for a sample later than this number."`
}

type glancesInput struct {
	Interval string `query:"interval" default:"5s" doc:"The time between two samples: agents go on sampling so for a while."`
	Wait     string `query:"wait" doc:"Wait until every host that is online has said something of the time after the question, but no longer than this, at most 15s."`
}

// patience is how long a question waits for a sample beyond the interval: a host
// may be far, or slow, and nothing else waits for it.
const patience = 5 * time.Second

// maxWait bounds a question, whatever is asked.
const maxWait = 15 * time.Second

func (a *API) registerSamples() {
	handle(a, huma.Operation{OperationID: "getHostSample", Method: http.MethodGet, Path: "/api/v1/hosts/{name}/sample", Tags: []string{"Host"}, Summary: "What a host is doing now",
		Description: "Asks the agent to sample its machine for as long as the question is repeated. The answer is the next sample, or after a while the last one, with its age. Command lines are shown to admins only."},
		func(ctx context.Context, in *sampleInput) (*output[HostSample], error) {
			interval, err := sampleInterval(in.Interval)
			if err != nil {
				return nil, err
			}
			r, err := a.get(ctx, model.MustKind(model.KindHost), in.Name)
			if err != nil {
				return nil, err
			}
			if a.samples == nil {
				return nil, problem(http.StatusNotFound, "this controller asks no host for samples")
			}
			h := r.(*model.Host)
			a.samples.Look(h.Metadata.UID, samples.Look{Interval: interval, Processes: in.Processes})
			wait := min(interval+patience, maxWait)
			if h.Status.State != model.HostOnline {
				wait = 0 // it may come back, but nobody waits for that
			}
			ctx, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			x := a.samples.Next(ctx, h.Metadata.UID, in.After)
			out := HostSample{Sample: x.Sample, Number: x.Number, State: h.Status.State}
			if x.Sample != nil {
				out.Age = time.Since(x.Came).Seconds()
				if callerOf(ctx).Role != model.AccessAdmin {
					out.Sample = withoutCommands(x.Sample)
				}
			}
			return &output[HostSample]{out}, nil
		})
	handle(a, huma.Operation{OperationID: "listGlances", Method: http.MethodGet, Path: "/api/v1/glances", Tags: []string{"Host"}, Summary: "All hosts at a glance: load, processors, memory, and the worst that is wrong",
		Description: "Asks all agents to sample their machines for as long as the question is repeated. It does not wait for them unless that is asked for."},
		func(ctx context.Context, in *glancesInput) (*output[GlanceList], error) {
			interval, err := sampleInterval(in.Interval)
			if err != nil {
				return nil, err
			}
			wait := time.Duration(0)
			if in.Wait != "" {
				if wait, err = time.ParseDuration(in.Wait); err != nil || wait < 0 || wait > maxWait {
					return nil, problem(http.StatusBadRequest, "wait: %q is no duration up to %s", in.Wait, maxWait)
				}
			}
			list, _, err := a.list(ctx, model.MustKind(model.KindHost), nil)
			if err != nil {
				return nil, err
			}
			if a.samples == nil {
				return nil, problem(http.StatusNotFound, "this controller asks no host for samples")
			}
			a.samples.LookAtAll(samples.Look{Interval: interval})
			if wait > 0 {
				a.awaitSamples(ctx, list, wait)
			}
			return &output[GlanceList]{GlanceList{a.glances(list)}}, nil
		})
}

func sampleInterval(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < samples.MinInterval || d > samples.MaxInterval {
		return 0, problem(http.StatusBadRequest, "interval: %q is no duration from %s to %s", text, samples.MinInterval, samples.MaxInterval)
	}
	return d, nil
}

// withoutCommands leaves the command lines of processes out: passwords stand there.
func withoutCommands(s *model.Sample) *model.Sample {
	out := *s
	out.Processes = make([]model.ProcessUse, len(s.Processes))
	for i, p := range s.Processes {
		p.Command = ""
		out.Processes[i] = p
	}
	return &out
}

// awaitSamples waits for rates of every host that is online, a while.
func (a *API) awaitSamples(ctx context.Context, hosts []model.Resource, wait time.Duration) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for _, r := range hosts {
		h := r.(*model.Host)
		if h.Status.State != model.HostOnline {
			continue
		}
		for x := a.samples.Last(h.Metadata.UID); ctx.Err() == nil && (x.Sample == nil || x.Seconds == 0 || x.Came.Before(began)); {
			x = a.samples.Next(ctx, h.Metadata.UID, x.Number)
		}
	}
}

func (a *API) glances(hosts []model.Resource) []model.Glance {
	alerts := map[string][]*model.Alert{}
	for _, x := range a.seen.Alerts() {
		alerts[x.Spec.Host] = append(alerts[x.Spec.Host], x)
	}
	out := make([]model.Glance, 0, len(hosts))
	for _, r := range hosts {
		h := r.(*model.Host)
		if h.Spec.Revoked {
			continue
		}
		g := model.Glance{Host: h.Metadata.Name, State: h.Status.State, Age: -1, Cores: h.Status.CPUs, Alerts: len(alerts[h.Metadata.Name])}
		for _, x := range alerts[h.Metadata.Name] {
			if g.Worst == nil || moreSevere(&x.Spec, g.Worst) {
				spec := x.Spec
				g.Worst = &spec
			}
		}
		if x := a.samples.Last(h.Metadata.UID); x.Sample != nil {
			g.Age, g.Cores, g.Load, g.CPU = time.Since(x.Came).Seconds(), len(x.Cores), x.Load, x.CPU
			g.MemoryTotal, g.MemoryUsed, g.SwapTotal, g.SwapUsed, g.Processes = x.Memory.Total, x.Memory.Used(), x.Swap.Total, x.Swap.Used, x.Tasks.Total
			for _, i := range x.Interfaces {
				if i.Name != "lo" {
					g.Sent, g.Received = g.Sent+i.SentBytes, g.Received+i.ReceivedBytes
				}
			}
		}
		out = append(out, g)
	}
	return out
}

// moreSevere says whether an alert comes before another: the more severe, then the
// older.
func moreSevere(a, b *model.AlertSpec) bool {
	if ra, rb := a.Severity.Rank(), b.Severity.Rank(); ra != rb {
		return ra > rb
	}
	return a.Since.Before(b.Since)
}
