package client

import (
	"context"
	"net/http"
	"net/url"

	"weft/controller/api"
)

// Forcing returns a client whose writes are done although they would cut agents
// off from the controller.
func (c *Client) Forcing() *Client {
	out := *c
	out.force = true
	return &out
}

// Confirming returns a client whose writes belong to a confirmation.
func (c *Client) Confirming(id string) *Client {
	out := *c
	out.confirmation = id
	return &out
}

// how adds what goes with every write.
func (c *Client) how(q url.Values) {
	if c.force {
		q.Set("force", "true")
	}
	if c.confirmation != "" {
		q.Set("confirmation", c.confirmation)
	}
}

// BeginConfirmation begins writes that are rolled back unless confirmed within a
// duration such as "5m".
func (c *Client) BeginConfirmation(ctx context.Context, within string) (*api.Confirmation, error) {
	var out api.Confirmation
	_, err := c.do(ctx, http.MethodPost, "/api/v1/confirmations", nil, api.ConfirmationRequest{Within: within}, &out)
	return &out, err
}

// Confirmations returns those that wait.
func (c *Client) Confirmations(ctx context.Context) ([]api.Confirmation, error) {
	var out api.Confirmations
	_, err := c.do(ctx, http.MethodGet, "/api/v1/confirmations", nil, nil, &out)
	return out.Items, err
}

// Confirm keeps what was written.
func (c *Client) Confirm(ctx context.Context, id string) (*api.Confirmation, error) {
	var out api.Confirmation
	_, err := c.do(ctx, http.MethodPost, "/api/v1/confirmations/"+url.PathEscape(id)+"/confirm", nil, nil, &out)
	return &out, err
}

// RollBack takes back what was written.
func (c *Client) RollBack(ctx context.Context, id string) (*api.Confirmation, error) {
	var out api.Confirmation
	_, err := c.do(ctx, http.MethodDelete, "/api/v1/confirmations/"+url.PathEscape(id), nil, nil, &out)
	return &out, err
}
