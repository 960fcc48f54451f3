package export

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"weft/controller/endpoint"
)

// poster posts to an endpoint, packed with gzip.
type poster struct {
	client *endpoint.Client
	packed bytes.Buffer
}

func newPoster(to *endpoint.Endpoint) (*poster, error) {
	c, err := endpoint.NewClient(to)
	if err != nil {
		return nil, err
	}
	return &poster{client: c}, nil
}

func (p *poster) close() { p.client.Close() }

// errTooLarge is an answer that a part of what was posted might not get.
var errTooLarge = errors.New("answered that it is too much at once")

// maxAnswer is how much of an answer is read.
const maxAnswer = 64 << 10

// post sends a body, packed with gzip, and returns what was answered.
func (p *poster) post(ctx context.Context, kind string, body []byte) ([]byte, error) {
	p.packed.Reset()
	w := gzip.NewWriter(&p.packed)
	if _, err := w.Write(body); err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	resp, err := p.client.Post(ctx, "", http.Header{"Content-Type": {kind}, "Content-Encoding": {"gzip"}}, bytes.NewReader(p.packed.Bytes()))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case resp.StatusCode/100 == 2:
		return answer, err
	case resp.StatusCode == http.StatusRequestEntityTooLarge:
		return nil, errTooLarge
	}
	err = fmt.Errorf("answered %s", resp.Status)
	if in := retryAfter(resp.Header.Get("Retry-After"), time.Now()); in > 0 {
		return nil, later{err, in}
	}
	return nil, err
}

// retryAfter reads the header, which has seconds or a date (RFC 9110, 10.2.3).
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return at.Sub(now)
	}
	return 0
}

// halve sends flows, and halves of them where they are too much at once. One flow
// that is too much by itself is left out, and refused told.
func halve[T any](list []T, refused func(), send func([]T) error) (int, error) {
	err := send(list)
	if !errors.Is(err, errTooLarge) {
		if err != nil {
			return 0, err
		}
		return len(list), nil
	}
	if len(list) == 1 {
		refused()
		return 1, nil
	}
	half := len(list) / 2
	n, err := halve(list[:half], refused, send)
	if err != nil || n < half {
		return n, err
	}
	m, err := halve(list[half:], refused, send)
	return n + m, err
}
