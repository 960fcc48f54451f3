package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"weft/controller/api"
)

// ErrProbeCut is of a probe whose controller is gone before the end.
var ErrProbeCut = errors.New("the controller is gone before the end, and the hosts stop")

// RunProbe has hosts ask, and calls f with how far they are until they have ended. It
// lasts for as long as somebody listens.
func (c *Client) RunProbe(ctx context.Context, query url.Values, f func(api.ProbeRun)) error {
	resp, err := c.request(ctx, http.MethodPost, "/api/v1/proberuns", query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for lines := json.NewDecoder(resp.Body); ; {
		var x api.ProbeRun
		err := lines.Decode(&x)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return ErrProbeCut
		case err != nil:
			return fmt.Errorf("%w: %w", ErrProbeCut, err)
		}
		if f(x); x.Over {
			return nil
		}
	}
}
