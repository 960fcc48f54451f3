package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"weft/controller/observe"
	"weft/model"
)

// Conversations are recorded ones, the last heard of first.
type Conversations struct {
	Items []observe.Conversation `json:"items" nullable:"false"`
	// What is not there: Evicted had to make room here, Lost at an agent, Unread
	// were of workloads that were gone when the report came.
	Evicted uint64 `json:"evicted"`
	Lost    uint64 `json:"lost"`
	Unread  uint64 `json:"unread"`
}

type conversationsInput struct {
	Since    string `query:"since" doc:"Heard of so long ago or later, as 24h."`
	Selector string `query:"labelSelector" doc:"Of workloads this selector matches."`
	ID       string `query:"id" doc:"The one with this id."`
	Denied   bool   `query:"denied" doc:"Only what was turned down."`
	Staged   bool   `query:"staged" doc:"Only what would be turned down were all staged policies active."`
	Limit    int    `query:"limit" minimum:"1" maximum:"20000" default:"1000"`
}

func (a *API) registerConversations() {
	handle(a, huma.Operation{OperationID: "listConversations", Method: http.MethodGet, Path: "/api/v1/conversations", Tags: []string{"Policy"}, Summary: "What workloads under policy have talked about with whom"},
		func(_ context.Context, in *conversationsInput) (*output[Conversations], error) {
			since, err := a.since(in.Since)
			if err != nil {
				return nil, err
			}
			sel, err := parseSelector("labelSelector", in.Selector)
			if err != nil {
				return nil, err
			}
			all := a.seen.Conversations(since)
			out := Conversations{Items: []observe.Conversation{}, Evicted: all.Evicted, Lost: all.Lost, Unread: all.Unread}
			for _, c := range all.Conversations {
				if in.ID != "" && c.ID != in.ID || sel != nil && !sel.Matches(c.Labels) || in.Denied && !turnedDown(c.Action) || in.Staged && !turnedDown(c.StagedAction) {
					continue
				}
				if out.Items = append(out.Items, *c); len(out.Items) == in.Limit {
					break
				}
			}
			return &output[Conversations]{out}, nil
		})
}

func turnedDown(a model.Action) bool {
	return slices.Contains([]model.Action{model.ActionDeny, model.ActionReject}, a)
}
