package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"weft/model"
)

// GroupPreview is who would belong to a group.
type GroupPreview struct {
	Members  []model.Workload `json:"members" nullable:"false"`
	Hosts    int              `json:"hosts" doc:"How many hosts the members are on."`
	Warnings []string         `json:"warnings,omitempty"`
}

// TapPreview is what a tap would do.
type TapPreview struct {
	Sources  []model.Workload `json:"sources" nullable:"false"`
	Hosts    int              `json:"hosts" doc:"How many hosts the sources are on."`
	Tools    []model.Workload `json:"tools" nullable:"false"`
	Warnings []string         `json:"warnings,omitempty"`
}

type rawInput struct{ RawBody []byte }

func (a *API) registerPreviews() {
	const groups, taps = "/api/v1/preview/groups", "/api/v1/preview/taps"
	handle(a, huma.Operation{OperationID: "previewGroup", Method: http.MethodPost, Path: groups, Tags: []string{"Group"}, Summary: "Who would belong to this group; nothing is stored"},
		func(ctx context.Context, in *rawInput) (*output[GroupPreview], error) {
			r, err := decodeAs(model.MustKind(model.KindGroup), in.RawBody)
			if err != nil {
				return nil, err
			}
			if err := a.check(ctx, r); err != nil {
				return nil, err
			}
			g := r.(*model.Group)
			members, err := a.seen.Members(g.Spec)
			if err != nil {
				return nil, model.FieldErrors{{Field: "spec.groups", Message: err.Error()}}
			}
			return &output[GroupPreview]{GroupPreview{Members: values(members), Hosts: hostsOf(members), Warnings: a.groupWarnings(g.Spec)}}, nil
		})
	describeBody[model.Group](a, a.huma.OpenAPI().Paths[groups].Post)
	handle(a, huma.Operation{OperationID: "previewTap", Method: http.MethodPost, Path: taps, Tags: []string{"Tap"}, Summary: "What this tap would copy, and to where; nothing is stored"},
		func(ctx context.Context, in *rawInput) (*output[TapPreview], error) {
			r, err := decodeAs(model.MustKind(model.KindTap), in.RawBody)
			if err != nil {
				return nil, err
			}
			if err := a.check(ctx, r); err != nil {
				return nil, err
			}
			t := r.(*model.Tap)
			p := TapPreview{Warnings: a.warnings(ctx, t), Sources: []model.Workload{}, Tools: []model.Workload{}}
			// An unknown group is a warning above, as it may be applied a moment later.
			if sources, tools, err := a.seen.PreviewTap(t.Spec); err == nil {
				p.Sources, p.Tools, p.Hosts = values(sources), values(tools), hostsOf(sources)
			}
			return &output[TapPreview]{p}, nil
		})
	describeBody[model.Tap](a, a.huma.OpenAPI().Paths[taps].Post)
}

func (a *API) registerMembers() {
	handle(a, huma.Operation{OperationID: "listGroupMembers", Method: http.MethodGet, Path: "/api/v1/groups/{name}/members", Tags: []string{"Group"}, Summary: "List the workloads that belong to a group now"},
		func(ctx context.Context, in *nameInput) (*output[List[model.Workload]], error) {
			r, err := a.get(ctx, model.MustKind(model.KindGroup), in.Name)
			if err != nil {
				return nil, err
			}
			members, err := a.seen.Members(r.(*model.Group).Spec)
			if err != nil {
				return nil, problem(http.StatusConflict, "%s: %v", model.Ref(r), err)
			}
			return &output[List[model.Workload]]{List[model.Workload]{APIVersion: model.APIVersion, Kind: "WorkloadList", Items: values(members)}}, nil
		})
}

func values(list []*model.Workload) []model.Workload {
	out := make([]model.Workload, len(list))
	for i, w := range list {
		out[i] = *w
	}
	return out
}

func hostsOf(list []*model.Workload) int {
	hosts := map[string]bool{}
	for _, w := range list {
		hosts[w.Spec.Host] = true
	}
	return len(hosts)
}
