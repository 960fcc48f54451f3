package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"weft/controller/flowstore"
	"weft/model"
	"weft/policy"
)

// FlowList is a page of flows.
type FlowList struct {
	Items []flowstore.Flow `json:"items" nullable:"false"`
	// After asks for what has come since, Before for the page of older ones.
	After  uint64 `json:"after,omitempty" doc:"Ask with after=this for newer flows."`
	Before uint64 `json:"before,omitempty" doc:"Ask with before=this for older flows."`
	// Lost is how many records agents could not keep, while the controller was away
	// for long.
	Lost uint64 `json:"lost"`
}

// FlowSums is sums over flows.
type FlowSums struct {
	// By are the fields that the rows' keys have.
	By    []string        `json:"by" nullable:"false"`
	Items []flowstore.Sum `json:"items" nullable:"false"`
	Since time.Time       `json:"since" doc:"What the sums are about: from the whole minute or hour before what was asked, where nothing finer is kept."`
	Until time.Time       `json:"until,omitzero"`
	// Next asks for the rows that come after these.
	Next int    `json:"next,omitempty" doc:"Ask with offset=this for the rows after these."`
	Lost uint64 `json:"lost"`
}

// FlowFilter says which flows are asked about.
type FlowFilter struct {
	Since    string `query:"since" doc:"Reported so long ago or later, as 1h; 1h unless given."`
	Until    string `query:"until" doc:"Reported so long ago or earlier."`
	Where    string `query:"where" doc:"Only flows whose fields fulfil this, in the words of selectors." example:"port=5432,client.app in (web,api)"`
	Selector string `query:"labelSelector" doc:"Only flows of which an end has labels that fulfil this."`
}

type flowsInput struct {
	FlowFilter
	After  uint64 `query:"after"`
	Before uint64 `query:"before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"10000" default:"100"`
}

type flowSumsInput struct {
	FlowFilter
	Query  string `query:"query" doc:"A FlowQuery, by name; what else is given goes over what it says."`
	By     string `query:"by" doc:"Fields that rows differ in, or labels: KEY is client.KEY and server.KEY; or minute, hour, day. Of country, as and group too both ends are meant; a workload counts in each group that it is in." example:"client.app,server.app,port"`
	Order  string `query:"order" enum:"bytes,packets,connections,drops,time" doc:"bytes unless given; time where it is summed up by minute, hour or day."`
	Limit  int    `query:"limit" minimum:"1" maximum:"10000" doc:"100 unless given."`
	Offset int    `query:"offset" minimum:"0" maximum:"1000000" doc:"How many rows to leave out first."`
}

// askWithin bounds the time of one question.
const askWithin = 30 * time.Second

func (a *API) registerFlows() {
	handle(a, huma.Operation{OperationID: "listFlows", Method: http.MethodGet, Path: "/api/v1/flows", Tags: []string{"Flows"}, Summary: "What connections did, as each end reports it; the newest first"},
		func(ctx context.Context, in *flowsInput) (*output[FlowList], error) {
			q, err := a.flowQuery(&in.FlowFilter)
			if err != nil {
				return nil, err
			}
			q.Limit = in.Limit
			ctx, cancel := context.WithTimeout(ctx, askWithin)
			defer cancel()
			items, next, err := a.flows.List(ctx, q, flowstore.Cursor{After: in.After, Before: in.Before})
			if err != nil {
				return nil, flowProblem(ctx, err)
			}
			out := FlowList{Items: items, After: next.After, Before: next.Before, Lost: a.flows.Lost()}
			if in.After == 0 && len(items) > 0 {
				out.After = max(items[0].ID, items[len(items)-1].ID)
			}
			return &output[FlowList]{out}, nil
		})
	handle(a, huma.Operation{OperationID: "sumFlows", Method: http.MethodGet, Path: "/api/v1/flows/sums", Tags: []string{"Flows"}, Summary: "Sums over flows: each connection once"},
		func(ctx context.Context, in *flowSumsInput) (*output[FlowSums], error) {
			if err := a.saved(ctx, in); err != nil {
				return nil, err
			}
			in.Limit = cmp.Or(in.Limit, 100)
			q, err := a.flowQuery(&in.FlowFilter)
			if err != nil {
				return nil, err
			}
			q.By, q.Order, q.Limit, q.Offset = flowFields(in.By), in.Order, in.Limit, in.Offset
			ctx, cancel := context.WithTimeout(ctx, askWithin)
			defer cancel()
			sums, err := a.flows.Sums(ctx, q)
			if err != nil {
				return nil, flowProblem(ctx, err)
			}
			out := FlowSums{By: q.By, Items: sums.Items, Since: sums.Since, Until: sums.Until, Lost: a.flows.Lost()}
			if len(out.Items) == in.Limit {
				out.Next = in.Offset + in.Limit
			}
			return &output[FlowSums]{out}, nil
		})
}

// FlowDisagreements are connections of which both ends have told all, and not the
// same.
type FlowDisagreements struct {
	Items []flowstore.Disagreement `json:"items" nullable:"false"`
}

// ExplainedFlow is the connection that a flow is of, as both ends tell of it.
type ExplainedFlow struct {
	flowstore.Connection
	// RuleAtClient and RuleAtServer are what decided at each end, as
	// POLICY/RULE; empty where there is no report.
	RuleAtClient string `json:"ruleAtClient,omitempty"`
	RuleAtServer string `json:"ruleAtServer,omitempty"`
}

type flowDisagreementsInput struct {
	FlowFilter
	Limit int `query:"limit" minimum:"1" maximum:"10000" default:"100"`
}

func (a *API) registerFlowEntries() {
	handle(a, huma.Operation{OperationID: "explainFlow", Method: http.MethodGet, Path: "/api/v1/flows/{id}", Tags: []string{"Flows"}, Summary: "The connection that a flow is of, as both its ends tell of it"},
		func(ctx context.Context, in *struct {
			ID uint64 `path:"id"`
		}) (*output[ExplainedFlow], error) {
			if a.flows == nil {
				return nil, noFlows()
			}
			ctx, cancel := context.WithTimeout(ctx, askWithin)
			defer cancel()
			c, err := a.flows.Explain(ctx, in.ID)
			if err != nil {
				return nil, flowProblem(ctx, err)
			}
			names, err := a.ruleNames(ctx)
			if err != nil {
				return nil, err
			}
			out := ExplainedFlow{Connection: *c}
			if c.AtClient != nil {
				out.RuleAtClient = names.of(c.AtClient.Rule)
			}
			if c.AtServer != nil {
				out.RuleAtServer = names.of(c.AtServer.Rule)
			}
			return &output[ExplainedFlow]{out}, nil
		})
	handle(a, huma.Operation{OperationID: "listFlowDisagreements", Method: http.MethodGet, Path: "/api/v1/flows/disagreements", Tags: []string{"Flows"}, Summary: "Connections of which both ends have told all, and not the same; those that differ most first"},
		func(ctx context.Context, in *flowDisagreementsInput) (*output[FlowDisagreements], error) {
			q, err := a.flowQuery(&in.FlowFilter)
			if err != nil {
				return nil, err
			}
			q.Limit = in.Limit
			ctx, cancel := context.WithTimeout(ctx, askWithin)
			defer cancel()
			list, err := a.flows.Disagreements(ctx, q)
			if err != nil {
				return nil, flowProblem(ctx, err)
			}
			return &output[FlowDisagreements]{FlowDisagreements{Items: list}}, nil
		})
}

// ruleNames are names of rules by their ids, as policies are now.
type ruleNames map[policy.RuleID]string

func (a *API) ruleNames(ctx context.Context) (ruleNames, error) {
	f, err := a.fleet(ctx)
	if err != nil {
		return nil, err
	}
	out := ruleNames{}
	for _, p := range slices.Concat(f.policies, f.failsafe) {
		for d, rules := range map[policy.Direction][]model.PolicyRule{policy.Ingress: p.Spec.Ingress, policy.Egress: p.Spec.Egress} {
			for i := range rules {
				out[policy.MakeRuleID(p, d, i)] = p.Metadata.Name + "/" + cmp.Or(rules[i].Name, fmt.Sprintf("#%d", i)) + " (" + d.String() + ")"
			}
		}
	}
	return out, nil
}

func (n ruleNames) of(id uint64) string {
	if id == 0 {
		return "default"
	}
	return cmp.Or(n[policy.RuleID(id)], policy.RuleID(id).String()+", of a policy that is no more")
}

// saved takes from a saved question what is not given. Conditions are added to
// those that are.
func (a *API) saved(ctx context.Context, in *flowSumsInput) error {
	if in.Query == "" {
		return nil
	}
	r, err := a.get(ctx, model.MustKind(model.KindFlowQuery), in.Query)
	if err != nil {
		return err
	}
	s := r.(*model.FlowQuery).Spec
	both := func(saved, given string) string { return strings.Trim(saved+","+given, ",") }
	in.By, in.Since, in.Order, in.Limit = cmp.Or(in.By, strings.Join(s.By, ",")), cmp.Or(in.Since, s.Since), cmp.Or(in.Order, s.Order), cmp.Or(in.Limit, s.Top, 20)
	in.Where, in.Selector = both(s.Where, in.Where), both(s.Selector, in.Selector)
	return nil
}

func noFlows() error { return problem(http.StatusNotFound, "this controller keeps no flows") }

func flowProblem(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return problem(http.StatusUnprocessableEntity, "the answer took longer than %s; ask about a shorter time", askWithin)
	}
	if errors.Is(err, flowstore.ErrAway) {
		return problem(http.StatusServiceUnavailable, "%v; agents hold their flows meanwhile", err)
	}
	if errors.Is(err, flowstore.ErrNoFlow) {
		return problem(http.StatusNotFound, "%v", err)
	}
	if errors.Is(err, flowstore.ErrQuery) {
		return problem(http.StatusUnprocessableEntity, "%v", err)
	}
	return err
}

// flowFields reads what rows are to differ in. A field or a label without its end is
// those of both.
func flowFields(text string) []string {
	out := []string{}
	for _, f := range strings.Split(text, ",") {
		f = strings.TrimSpace(f)
		switch {
		case f == "":
		case slices.Contains(flowstore.Fields(), f) || slices.Contains(flowstore.Times(), f) || strings.HasPrefix(f, "client.") || strings.HasPrefix(f, "server."):
			out = append(out, f)
		default:
			client, server := flowstore.Pair(f)
			out = append(out, client, server)
		}
	}
	return slices.Compact(out)
}

func (a *API) flowQuery(in *FlowFilter) (q flowstore.Query, err error) {
	if a.flows == nil {
		return q, noFlows()
	}
	if in.Since == "" {
		in.Since = "1h"
	}
	if q.Since, err = a.since(in.Since); err != nil {
		return q, err
	}
	if in.Until != "" {
		if q.Until, err = a.since(in.Until); err != nil {
			return q, err
		}
	}
	if q.Where, err = parseSelector("where", in.Where); err != nil {
		return q, err
	}
	q.Labels, err = parseSelector("labelSelector", in.Selector)
	return q, err
}
