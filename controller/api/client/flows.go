package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"google.golang.org/protobuf/proto"

	"weft/controller/api"
	"weft/wire/wirepb"
)

// FlowFilter says which flows are wanted.
type FlowFilter struct {
	Since, Until    string // durations
	Where, Selector string
	After, Before   uint64 // of Flows alone
	By, Order       string // of FlowSums alone
	Limit, Offset   int
}

func (f FlowFilter) query() url.Values {
	q := url.Values{}
	for k, v := range map[string]string{"since": f.Since, "until": f.Until, "where": f.Where, "labelSelector": f.Selector, "by": f.By, "order": f.Order} {
		if v != "" {
			q.Set(k, v)
		}
	}
	for k, v := range map[string]uint64{"after": f.After, "before": f.Before, "limit": uint64(f.Limit), "offset": uint64(f.Offset)} {
		if v > 0 {
			q.Set(k, strconv.FormatUint(v, 10))
		}
	}
	return q
}

// Flows returns a page of flows.
func (c *Client) Flows(ctx context.Context, f FlowFilter) (*api.FlowList, error) {
	f.By, f.Order = "", ""
	var out api.FlowList
	_, err := c.do(ctx, http.MethodGet, "/api/v1/flows", f.query(), nil, &out)
	return &out, err
}

// FlowSums returns sums over flows.
func (c *Client) FlowSums(ctx context.Context, f FlowFilter) (*api.FlowSums, error) {
	f.After, f.Before = 0, 0
	var out api.FlowSums
	_, err := c.do(ctx, http.MethodGet, "/api/v1/flows/sums", f.query(), nil, &out)
	return &out, err
}

// ImportFlows has a batch of what a capture holds kept. Name and digest are the
// capture's.
func (c *Client) ImportFlows(ctx context.Context, name, digest string, batch *wirepb.FlowBatch) (*api.FlowImport, error) {
	body, err := proto.Marshal(batch)
	if err != nil {
		return nil, fmt.Errorf("encode a batch of flows: %w", err)
	}
	var out api.FlowImport
	_, err = c.do(ctx, http.MethodPost, "/api/v1/flows/import", url.Values{"name": {name}, "digest": {digest}}, body, &out)
	return &out, err
}

// FlowDisagreements returns connections whose ends disagree.
func (c *Client) FlowDisagreements(ctx context.Context, f FlowFilter) (*api.FlowDisagreements, error) {
	f.After, f.Before, f.By, f.Order = 0, 0, "", ""
	var out api.FlowDisagreements
	_, err := c.do(ctx, http.MethodGet, "/api/v1/flows/disagreements", f.query(), nil, &out)
	return &out, err
}

// ExplainFlow returns the connection that a flow is of.
func (c *Client) ExplainFlow(ctx context.Context, id uint64) (*api.ExplainedFlow, error) {
	var out api.ExplainedFlow
	_, err := c.do(ctx, http.MethodGet, "/api/v1/flows/"+strconv.FormatUint(id, 10), nil, nil, &out)
	return &out, err
}
