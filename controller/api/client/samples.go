package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"weft/controller/api"
	"weft/model"
)

// Sample returns the sample of a host after a number, or the last one where none
// comes.
func (c *Client) Sample(ctx context.Context, host string, interval time.Duration, after uint64) (*api.HostSample, error) {
	q := url.Values{"interval": {interval.String()}}
	if after > 0 {
		q.Set("after", strconv.FormatUint(after, 10))
	}
	var out api.HostSample
	_, err := c.do(ctx, http.MethodGet, "/api/v1/hosts/"+url.PathEscape(host)+"/sample", q, nil, &out)
	return &out, err
}

// Glances returns all hosts at a glance. It waits for fresh figures no longer than
// it is told.
func (c *Client) Glances(ctx context.Context, interval, wait time.Duration) ([]model.Glance, error) {
	q := url.Values{"interval": {interval.String()}}
	if wait > 0 {
		q.Set("wait", wait.String())
	}
	var out api.GlanceList
	_, err := c.do(ctx, http.MethodGet, "/api/v1/glances", q, nil, &out)
	return out.Items, err
}
