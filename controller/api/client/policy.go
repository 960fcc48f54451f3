package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"weft/controller/api"
	"weft/model"
)

// Explain says what becomes of a packet, and why.
func (c *Client) Explain(ctx context.Context, r *api.ExplainRequest) (*api.Explained, error) {
	var out api.Explained
	_, err := c.do(ctx, http.MethodPost, "/api/v1/preview/explain", nil, r, &out)
	return &out, err
}

// WhatIf makes the question what resources would change.
func WhatIf(resources []model.Resource, selector, since string) (*api.WhatIfRequest, error) {
	out := &api.WhatIfRequest{Resources: []json.RawMessage{}, Selector: selector, Since: since}
	for _, r := range resources {
		raw, err := json.Marshal(r)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", model.Ref(r), err)
		}
		out.Resources = append(out.Resources, raw)
	}
	return out, nil
}

// DiffPolicies says what policies would change.
func (c *Client) DiffPolicies(ctx context.Context, r *api.WhatIfRequest) (*api.PolicyDiff, error) {
	var out api.PolicyDiff
	_, err := c.do(ctx, http.MethodPost, "/api/v1/preview/policydiff", nil, r, &out)
	return &out, err
}

// ReplayPolicies says what policies would have made of recorded conversations.
func (c *Client) ReplayPolicies(ctx context.Context, r *api.WhatIfRequest) (*api.PolicyReplay, error) {
	var out api.PolicyReplay
	_, err := c.do(ctx, http.MethodPost, "/api/v1/preview/policyreplay", nil, r, &out)
	return &out, err
}

// Proposal returns policies that allow what members of a group were seen to do.
func (c *Client) Proposal(ctx context.Context, group, since string) (*api.Proposal, error) {
	var out api.Proposal
	_, err := c.do(ctx, http.MethodGet, "/api/v1/groups/"+url.PathEscape(group)+"/proposal", sinceQuery(since), nil, &out)
	return &out, err
}

// ConversationFilter says which conversations are wanted.
type ConversationFilter struct {
	Since, Selector, ID string
	Denied, Staged      bool
	Limit               int
}

// Conversations returns recorded ones, the last heard of first.
func (c *Client) Conversations(ctx context.Context, f ConversationFilter) (*api.Conversations, error) {
	q := sinceQuery(f.Since)
	for k, v := range map[string]string{"labelSelector": f.Selector, "id": f.ID} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if f.Denied {
		q.Set("denied", "true")
	}
	if f.Staged {
		q.Set("staged", "true")
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	var out api.Conversations
	_, err := c.do(ctx, http.MethodGet, "/api/v1/conversations", q, nil, &out)
	return &out, err
}

func sinceQuery(since string) url.Values {
	q := url.Values{}
	if since != "" {
		q.Set("since", since)
	}
	return q
}
