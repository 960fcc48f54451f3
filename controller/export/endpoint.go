package export

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"weft/internal/version"
)

// Endpoint is where to post. A URL may hold a secret, and so may stand in a file of
// its own; what is in such files is read again for each request.
type Endpoint struct {
	URL string `yaml:"url,omitempty"`
	// URLFile holds the URL.
	URLFile string `yaml:"urlFile,omitempty"`
	// TokenFile holds what is sent as a bearer token.
	TokenFile string `yaml:"tokenFile,omitempty"`
	// CAFile holds the authorities that the receiver's certificate is checked by;
	// the system's unless given.
	CAFile string `yaml:"caFile,omitempty"`
}

func (e *Endpoint) check() error {
	var errs []error
	if (e.URL == "") == (e.URLFile == "") {
		errs = append(errs, errors.New("url: give one of url and urlFile"))
	} else if _, err := e.target(); err != nil {
		errs = append(errs, err)
	}
	if e.TokenFile != "" {
		if _, err := secret(e.TokenFile); err != nil {
			errs = append(errs, fmt.Errorf("tokenFile: %w", err))
		}
	}
	if _, err := authorities(e.CAFile); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// authorities are those of a file; without one nil, which is the system's.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	if !filepath.IsAbs(file) {
		return nil, fmt.Errorf("caFile: %q is no absolute path", file)
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("caFile: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("caFile: %s holds no certificate", file)
	}
	return pool, nil
}

// secret reads a short file.
func secret(file string) (string, error) {
	const most = 16 << 10
	if !filepath.IsAbs(file) {
		return "", fmt.Errorf("%q is no absolute path", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(b))
	if text == "" || strings.ContainsAny(text, "\r\n") {
		return "", fmt.Errorf("%s does not hold one line", file)
	}
	return text, nil
}

// target is where to post. Its errors do not say the URL, which may be a secret.
func (e *Endpoint) target() (string, error) {
	text := e.URL
	if e.URLFile != "" {
		var err error
		if text, err = secret(e.URLFile); err != nil {
			return "", fmt.Errorf("urlFile: %w", err)
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return "", errors.New("url: want http(s)://HOST[:PORT]/PATH, and a password in no URL but in tokenFile")
	}
	return u.String(), nil
}

// poster posts to an Endpoint.
type poster struct {
	to     *Endpoint
	client *http.Client
	packed bytes.Buffer
}

func newPoster(to *Endpoint) (*poster, error) {
	pool, err := authorities(to.CAFile)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	// A token must not follow a redirect to somebody else.
	return &poster{to: to, client: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

func (p *poster) close() { p.client.CloseIdleConnections() }

// errTooLarge is an answer that a part of what was posted might not get.
var errTooLarge = errors.New("answered that it is too much at once")

// maxAnswer is how much of an answer is read.
const maxAnswer = 64 << 10

// post sends a body, packed with gzip, and returns what was answered.
func (p *poster) post(ctx context.Context, kind string, body []byte) ([]byte, error) {
	target, err := p.to.target()
	if err != nil {
		return nil, err
	}
	p.packed.Reset()
	w := gzip.NewWriter(&p.packed)
	if _, err := w.Write(body); err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(p.packed.Bytes()))
	if err != nil {
		return nil, errors.New("make the request") // what it says has the URL
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Content-Encoding", "gzip")
	req.Header.Set("User-Agent", "weft/"+version.Version)
	if p.to.TokenFile != "" {
		token, err := secret(p.to.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("tokenFile: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		var outer *url.Error // it says the URL
		if errors.As(err, &outer) {
			err = outer.Err
		}
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
