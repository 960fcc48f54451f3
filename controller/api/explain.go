package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"weft/model"
	"weft/policy"
)

// ExplainRequest asks what becomes of a packet, and why.
type ExplainRequest struct {
	Source      string              `json:"source" doc:"A workload's name, an address, a domain name, or world, dns, control-plane, relay, metadata."`
	Destination string              `json:"destination"`
	Service     string              `json:"service" doc:"tcp/5432, udp/53, sctp/3868, icmp/8, gre or the number of a protocol." example:"tcp/5432"`
	Process     model.PolicyProcess `json:"process,omitzero" doc:"The process that sends."`
	PeerProcess model.PolicyProcess `json:"peerProcess,omitzero" doc:"The process that receives."`
	Stage       model.Stage         `json:"stage,omitempty" enum:"Active,Staged,Draft" doc:"Up to which stage policies count; Active unless given."`
}

// Explained says what becomes of the packet.
type Explained struct {
	Action  model.Action `json:"action"`
	Egress  ExplainedEnd `json:"egress" doc:"What the sender's end says."`
	Ingress ExplainedEnd `json:"ingress" doc:"What the receiver's end says."`
	Notes   []string     `json:"notes,omitempty" doc:"What the answer takes for granted."`
	Text    string       `json:"text" doc:"All of it in words."`
}

// ExplainedEnd is one end's part.
type ExplainedEnd struct {
	Labels map[string]string `json:"labels,omitempty" doc:"The identity labels; none for what is no workload."`
	Action model.Action      `json:"action"`
	Reason string            `json:"reason" enum:"rule,default,unmanaged"`
	Mode   model.Mode        `json:"mode,omitempty" doc:"Of the subject, where no rule decided."`
	Tier   model.Tier        `json:"tier,omitempty"`
	Policy string            `json:"policy,omitempty"`
	Rule   string            `json:"rule,omitempty"`
	RuleID string            `json:"ruleID,omitempty"`
	Steps  []ExplainedStep   `json:"steps,omitempty"`
	Misses []NearMiss        `json:"misses,omitempty" doc:"Allow rules that fell short by one thing, the nearest first."`
}

// ExplainedStep is what happened in one tier.
type ExplainedStep struct {
	Tier  model.Tier `json:"tier"`
	Rules int        `json:"rules" doc:"How many rules for the subject it holds."`
	Text  string     `json:"text"`
}

// NearMiss is an Allow rule that all but matched.
type NearMiss struct {
	Policy    string `json:"policy"`
	Rule      string `json:"rule"`
	Dimension string `json:"dimension"`
	Have      string `json:"have"`
	Want      string `json:"want"`
}

func (a *API) registerExplain() {
	const path = "/api/v1/preview/explain"
	handle(a, huma.Operation{OperationID: "explainPacket", Method: http.MethodPost, Path: path, Tags: []string{"Policy"}, Summary: "What becomes of a packet by the policies, and why"},
		func(ctx context.Context, in *struct{ Body ExplainRequest }) (*output[Explained], error) {
			out, err := a.explain(ctx, &in.Body)
			if err != nil {
				return nil, err
			}
			return &output[Explained]{*out}, nil
		})
}

func (a *API) explain(ctx context.Context, r *ExplainRequest) (*Explained, error) {
	if r.Stage == "" {
		r.Stage = model.StageActive
	}
	if stages := []model.Stage{model.StageActive, model.StageStaged, model.StageDraft}; !slices.Contains(stages, r.Stage) {
		return nil, problem(http.StatusUnprocessableEntity, "stage %q is none of Active, Staged, Draft", r.Stage)
	}
	protocol, port, err := parseService(r.Service)
	if err != nil {
		return nil, err
	}
	f, err := a.fleet(ctx)
	if err != nil {
		return nil, err
	}
	from, err := f.party(ctx, r.Source)
	if err != nil {
		return nil, err
	}
	to, err := f.party(ctx, r.Destination)
	if err != nil {
		return nil, err
	}
	list, err := worlds(nil, f)
	if err != nil {
		return nil, err
	}
	source, ok := from.end(list[0], to, r.Process)
	destination, okToo := to.end(list[0], from, r.PeerProcess)
	if !ok || !okToo {
		return nil, problem(http.StatusUnprocessableEntity, "%s and %s have no address family in common", r.Source, r.Destination)
	}
	x := policy.Explain(list[0].At(r.Stage), newPacket(source, destination, protocol, port))
	out := &Explained{Action: x.Action, Egress: explained(x.Egress), Ingress: explained(x.Ingress), Text: x.String()}
	if from.workload != nil && from.local && (to.workload == nil || to.workload.Spec.Host != from.workload.Spec.Host) {
		out.Notes = append(out.Notes, fmt.Sprintf("%s leaves by the address of host %s; where the other end is told no more than that address, it judges host %s in its place", r.Source, from.workload.Spec.Host, from.workload.Spec.Host))
	}
	if to.workload != nil && to.local && from.workload != nil && to.workload.Spec.Host != from.workload.Spec.Host {
		out.Notes = append(out.Notes, fmt.Sprintf("the addresses of %s mean nothing outside host %s; what reaches it from elsewhere is forwarded there, and its sender judges host %s", r.Destination, to.workload.Spec.Host, to.workload.Spec.Host))
	}
	return out, nil
}

func explained(x policy.EndExplanation) ExplainedEnd {
	v := x.Verdict
	out := ExplainedEnd{Labels: x.Labels, Action: v.Action, Reason: string(v.Reason), Mode: v.Mode, Tier: v.Tier, Policy: v.Policy, Rule: v.Rule}
	if v.ID != 0 {
		out.RuleID = v.ID.String()
	}
	for _, s := range x.Steps {
		out.Steps = append(out.Steps, ExplainedStep{s.Tier, s.Rules, s.Text})
	}
	for _, m := range x.Misses {
		out.Misses = append(out.Misses, NearMiss{m.Policy, m.Rule, m.Dimension, m.Have, m.Want})
	}
	return out
}
