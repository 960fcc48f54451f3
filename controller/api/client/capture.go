package client

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"weft/controller/api"
	"weft/controller/captures"
)

// Capture begins one. The file comes from body, which the caller closes.
func (c *Client) Capture(ctx context.Context, query url.Values) (id string, body io.ReadCloser, err error) {
	resp, err := c.request(ctx, http.MethodPost, "/api/v1/captures", query, nil)
	if err != nil {
		return "", nil, err
	}
	return resp.Header.Get(api.CaptureHeader), resp.Body, nil
}

// CaptureFigures returns what has come of a capture that runs, by host.
func (c *Client) CaptureFigures(ctx context.Context, id string) ([]captures.Figures, error) {
	var out api.CaptureFigures
	_, err := c.do(ctx, http.MethodGet, "/api/v1/captures/"+url.PathEscape(id), nil, nil, &out)
	return out.Items, err
}

// EndCapture ends a capture; what it has still comes.
func (c *Client) EndCapture(ctx context.Context, id string) error {
	resp, err := c.request(ctx, http.MethodDelete, "/api/v1/captures/"+url.PathEscape(id), nil, nil)
	if err == nil {
		resp.Body.Close()
	}
	return err
}
