package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"weft/controller/api"
	"weft/controller/notify"
)

// AlertHistory returns when alerts were raised and were over, the newest first.
func (c *Client) AlertHistory(ctx context.Context, host string, limit int) ([]notify.Change, error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if host != "" {
		q.Set("host", host)
	}
	var out api.AlertHistory
	_, err := c.do(ctx, http.MethodGet, "/api/v1/alerthistory", q, nil, &out)
	return out.Items, err
}
