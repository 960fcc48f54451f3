// Package client speaks to a controller's API, over HTTPS with the controller's
// own authority, or over its Unix socket.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"weft/controller/access"
	"weft/controller/api"
	"weft/controller/store"
	"weft/internal/version"
	"weft/model"
)

// Client is safe for concurrent use.
type Client struct {
	http   *http.Client
	base   string
	token  string
	server string
	// force and confirmation go with every write.
	force        bool
	confirmation string
}

// Server returns what the client was made for, for messages.
func (c *Client) Server() string { return c.server }

// Status returns the HTTP status of a refusal, or 0 for any other error.
func Status(err error) int {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Status
	}
	return 0
}

const maxAnswer = 256 << 20 // bytes; a list of a large fleet

func (c *Client) request(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		data, raw := body.([]byte)
		if !raw {
			var err error
			if data, err = json.Marshal(body); err != nil {
				return nil, fmt.Errorf("encode the request: %w", err)
			}
		}
		reader = bytes.NewReader(data)
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, target, reader)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	if _, raw := body.([]byte); raw {
		r.Header.Set("Content-Type", "application/x-protobuf")
	} else if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("User-Agent", "weft/"+version.Version)
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, refusal(resp)
}

// refusal reads the problem document of an answer.
func refusal(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var p api.Problem
	if err := json.Unmarshal(text, &p); err != nil || p.Status == 0 {
		return fmt.Errorf("the server answered %s, but not as a controller does; is this its address?", resp.Status)
	}
	return &p
}

func (c *Client) do(ctx context.Context, method, path string, query url.Values, body, into any) (http.Header, error) {
	resp, err := c.request(ctx, method, path, query, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(into); err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", c.server, err)
	}
	return resp.Header, nil
}

func kindPath(info model.KindInfo, name string) string {
	p := "/api/v1/" + info.Plural
	if name != "" {
		p += "/" + url.PathEscape(name)
	}
	return p
}

// List returns all of a kind that a selector matches ("" matches all), by name.
func (c *Client) List(ctx context.Context, info model.KindInfo, selector string) ([]model.Resource, error) {
	return c.list(ctx, info, kindPath(info, ""), selector)
}

// Members returns the workloads in a group.
func (c *Client) Members(ctx context.Context, group string) ([]model.Resource, error) {
	return c.list(ctx, model.MustKind(model.KindWorkload), "/api/v1/groups/"+url.PathEscape(group)+"/members", "")
}

func (c *Client) list(ctx context.Context, info model.KindInfo, path, selector string) ([]model.Resource, error) {
	q := url.Values{}
	if selector != "" {
		q.Set("labelSelector", selector)
	}
	var answer struct {
		Items []json.RawMessage `json:"items"`
	}
	if _, err := c.do(ctx, http.MethodGet, path, q, nil, &answer); err != nil {
		return nil, err
	}
	list := make([]model.Resource, len(answer.Items))
	for i, item := range answer.Items {
		list[i] = info.New()
		if err := json.Unmarshal(item, list[i]); err != nil {
			return nil, fmt.Errorf("read the answer of %s: %w", c.server, err)
		}
	}
	return list, nil
}

// Get returns one resource.
func (c *Client) Get(ctx context.Context, info model.KindInfo, name string) (model.Resource, error) {
	r := info.New()
	_, err := c.do(ctx, http.MethodGet, kindPath(info, name), nil, nil, r)
	return r, err
}

// Create makes a resource, and returns it as stored and what the server warns of.
func (c *Client) Create(ctx context.Context, r model.Resource, dryRun bool) (model.Resource, []string, error) {
	return c.write(ctx, http.MethodPost, r, "", dryRun)
}

// Replace writes over a resource. Where r has a resource version, that must be
// the present one.
func (c *Client) Replace(ctx context.Context, r model.Resource, dryRun bool) (model.Resource, []string, error) {
	return c.write(ctx, http.MethodPut, r, r.Meta().Name, dryRun)
}

func (c *Client) write(ctx context.Context, method string, r model.Resource, name string, dryRun bool) (model.Resource, []string, error) {
	info, err := model.FindKind(string(r.GetKind()))
	if err != nil {
		return nil, nil, err
	}
	q := url.Values{}
	if dryRun {
		q.Set("dryRun", "true")
	}
	c.how(q)
	out := info.New()
	h, err := c.do(ctx, method, kindPath(info, name), q, r, out)
	if err != nil {
		return nil, nil, err
	}
	return out, warnings(h), nil
}

// Delete removes a resource and returns what it was.
func (c *Client) Delete(ctx context.Context, info model.KindInfo, name string, dryRun bool) (model.Resource, error) {
	q := url.Values{}
	if dryRun {
		q.Set("dryRun", "true")
	}
	c.how(q)
	q.Del("confirmation")
	r := info.New()
	_, err := c.do(ctx, http.MethodDelete, kindPath(info, name), q, nil, r)
	return r, err
}

// PreviewTap says what a tap would do.
func (c *Client) PreviewTap(ctx context.Context, t *model.Tap) (*api.TapPreview, error) {
	var p api.TapPreview
	_, err := c.do(ctx, http.MethodPost, "/api/v1/preview/taps", nil, t, &p)
	return &p, err
}

// PreviewGroup says who would belong to a group.
func (c *Client) PreviewGroup(ctx context.Context, g *model.Group) (*api.GroupPreview, error) {
	var p api.GroupPreview
	_, err := c.do(ctx, http.MethodPost, "/api/v1/preview/groups", nil, g, &p)
	return &p, err
}

// Audit returns the newest entries first.
func (c *Client) Audit(ctx context.Context, limit int) ([]store.AuditEntry, error) {
	var log api.AuditLog
	_, err := c.do(ctx, http.MethodGet, "/api/v1/audit", url.Values{"limit": {strconv.Itoa(limit)}}, nil, &log)
	return log.Items, err
}

// Version returns the controller's.
func (c *Client) Version(ctx context.Context) (api.Version, error) {
	var v api.Version
	_, err := c.do(ctx, http.MethodGet, "/api/v1/version", nil, nil, &v)
	return v, err
}

// WhoAmI returns who the controller takes the caller for.
func (c *Client) WhoAmI(ctx context.Context) (access.User, error) {
	var u access.User
	_, err := c.do(ctx, http.MethodGet, "/api/v1/whoami", nil, nil, &u)
	return u, err
}

// Event is one line of a watch; Resource is nil for SYNCED.
type Event struct {
	Type     string
	Resource model.Resource
}

// Watch calls f for each event until ctx ends, f fails or the server goes away.
func (c *Client) Watch(ctx context.Context, info model.KindInfo, selector string, f func(Event) error) error {
	q := url.Values{}
	if selector != "" {
		q.Set("labelSelector", selector)
	}
	resp, err := c.request(ctx, http.MethodGet, "/api/v1/watch/"+info.Plural, q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var line api.WatchEvent
		if err := dec.Decode(&line); err != nil {
			return fmt.Errorf("watch %s: the connection ended: %w", info.Plural, err)
		}
		e := Event{Type: line.Type}
		if line.Object != nil {
			e.Resource = info.New()
			if err := json.Unmarshal(line.Object, e.Resource); err != nil {
				return fmt.Errorf("watch %s: %w", info.Plural, err)
			}
		} else if line.Type != "SYNCED" {
			continue // a heartbeat, or what a newer server says
		}
		if err := f(e); err != nil {
			return err
		}
	}
}

var warningRE = regexp.MustCompile(`^299 \S+ "((?:[^"\\]|\\.)*)"$`)

func warnings(h http.Header) []string {
	var out []string
	for _, w := range h.Values("Warning") {
		if m := warningRE.FindStringSubmatch(w); m != nil {
			out = append(out, strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(m[1]))
		}
	}
	return out
}
