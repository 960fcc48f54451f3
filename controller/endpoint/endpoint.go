// Package endpoint is where the controller sends something by HTTP: to who is told
// of alerts, or takes flows. What is secret is in files, and neither in logs nor in
// errors.
package endpoint

import (
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
	"strings"

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

// Check says what is wrong, by field.
func (e *Endpoint) Check() error {
	var errs []error
	if (e.URL == "") == (e.URLFile == "") {
		errs = append(errs, errors.New("url: give one of url and urlFile"))
	} else if _, err := e.target(); err != nil {
		errs = append(errs, err)
	}
	if e.TokenFile != "" {
		if _, err := Secret(e.TokenFile); err != nil {
			errs = append(errs, fmt.Errorf("tokenFile: %w", err))
		}
	}
	if _, err := Authorities(e.CAFile); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Authorities are those of a file; without one nil, which is the system's.
func Authorities(file string) (*x509.CertPool, error) {
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

// Secret reads a file of one line.
func Secret(file string) (string, error) {
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
func (e *Endpoint) target() (*url.URL, error) {
	text := e.URL
	if e.URLFile != "" {
		var err error
		if text, err = Secret(e.URLFile); err != nil {
			return nil, fmt.Errorf("urlFile: %w", err)
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, errors.New("url: want http(s)://HOST[:PORT]/PATH, and a password in no URL but in tokenFile")
	}
	return u, nil
}

// Client posts to an Endpoint.
type Client struct {
	to   *Endpoint
	http *http.Client
}

// NewClient makes a Client.
func NewClient(to *Endpoint) (*Client, error) {
	pool, err := Authorities(to.CAFile)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	// A token must not follow a redirect to somebody else.
	return &Client{to, &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// Close gives connections back.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Post sends a body once, with headers, to a path below the endpoint's own; empty
// for that. The answer's body is the caller's to close.
func (c *Client) Post(ctx context.Context, path string, headers http.Header, body io.Reader) (*http.Response, error) {
	target, err := c.to.target()
	if err != nil {
		return nil, err
	}
	if path != "" {
		target = target.JoinPath(path)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), body)
	if err != nil {
		return nil, errors.New("make the request") // what it says has the URL
	}
	req.Header = headers
	req.Header.Set("User-Agent", "weft/"+version.Version)
	if c.to.TokenFile != "" {
		token, err := Secret(c.to.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("tokenFile: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var outer *url.Error // it says the URL
		if errors.As(err, &outer) {
			err = outer.Err
		}
		return nil, err
	}
	return resp, nil
}
