package notify

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"weft/internal/version"
	"weft/model"
)

// Receivers is the file that says who is told of alerts.
type Receivers struct {
	Receivers []Receiver `yaml:"receivers"`
}

// Receiver is somebody who is told. A URL may hold a secret, and so may stand in a
// file of its own; what is in such files is read again for each message.
type Receiver struct {
	// Name is for logs.
	Name string `yaml:"name"`
	// Type is webhook, which is sent each change as JSON, or alertmanager, which is
	// sent all alerts in the form of Alertmanager's API, again and again.
	Type string `yaml:"type"`
	// URL of a webhook, or of an Alertmanager without its path.
	URL string `yaml:"url,omitempty"`
	// URLFile holds the URL.
	URLFile string `yaml:"urlFile,omitempty"`
	// TokenFile holds what is sent as a bearer token.
	TokenFile string `yaml:"tokenFile,omitempty"`
	// CAFile holds the authorities that the receiver's certificate is checked by;
	// the system's unless given.
	CAFile string `yaml:"caFile,omitempty"`
	// Severities are those that it is told of; all unless given.
	Severities []model.Severity `yaml:"severities,omitempty"`

	client *http.Client
}

// maxReceivers bounds who is told.
const maxReceivers = 32

// ReadReceivers reads the file and checks all of it. Errors name file, line and
// field.
func ReadReceivers(file string) ([]Receiver, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read receivers of alerts: %w", err)
	}
	var r Receivers
	if err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(&r); err != nil && !errors.Is(err, io.EOF) {
		text := strings.TrimPrefix(strings.TrimSpace(yaml.FormatError(err, false, false)), "[")
		return nil, fmt.Errorf("%s:%s", file, strings.Replace(text, "] ", ": ", 1))
	}
	var errs []error
	if len(r.Receivers) > maxReceivers {
		errs = append(errs, fmt.Errorf("%s: %d receivers; %d at most", file, len(r.Receivers), maxReceivers))
	}
	for i := range r.Receivers {
		x := &r.Receivers[i]
		if err := x.check(); err != nil {
			errs = append(errs, fmt.Errorf("%s: receivers[%d] %s: %w", file, i, x.Name, err))
		}
		if j := slices.IndexFunc(r.Receivers[:i], func(o Receiver) bool { return o.Name == x.Name }); j >= 0 {
			errs = append(errs, fmt.Errorf("%s: receivers[%d].name: %q is the name of receivers[%d] too", file, i, x.Name, j))
		}
	}
	return r.Receivers, errors.Join(errs...)
}

func (r *Receiver) check() error {
	var errs []error
	if err := model.CheckName(r.Name); err != nil {
		errs = append(errs, fmt.Errorf("name: %w", err))
	}
	if r.Type != "webhook" && r.Type != "alertmanager" {
		errs = append(errs, fmt.Errorf("type: %q is none of webhook, alertmanager", r.Type))
	}
	if (r.URL == "") == (r.URLFile == "") {
		errs = append(errs, errors.New("url: give one of url and urlFile"))
	} else if _, err := r.target(); err != nil {
		errs = append(errs, err)
	}
	for field, file := range map[string]string{"tokenFile": r.TokenFile, "caFile": r.CAFile, "urlFile": r.URLFile} {
		if file != "" && !filepath.IsAbs(file) {
			errs = append(errs, fmt.Errorf("%s: %q is no absolute path", field, file))
		}
	}
	if r.TokenFile != "" {
		if _, err := secret(r.TokenFile); err != nil {
			errs = append(errs, fmt.Errorf("tokenFile: %w", err))
		}
	}
	for _, s := range r.Severities {
		if s.Rank() == 0 {
			errs = append(errs, fmt.Errorf("severities: %q is none of Critical, Warning, Info", s))
		}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if r.CAFile != "" {
		pem, err := os.ReadFile(r.CAFile)
		pool := x509.NewCertPool()
		if err != nil || !pool.AppendCertsFromPEM(pem) {
			errs = append(errs, fmt.Errorf("caFile: %s holds no certificate (%v)", r.CAFile, err))
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	// A token must not follow a redirect to somebody else.
	r.client = &http.Client{Transport: transport, Timeout: sendWithin, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return errors.Join(errs...)
}

// secret reads a short file.
func secret(file string) (string, error) {
	const most = 16 << 10
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

// target is where to send. Its errors do not say the URL, which may be a secret.
func (r *Receiver) target() (string, error) {
	text := r.URL
	if r.URLFile != "" {
		var err error
		if text, err = secret(r.URLFile); err != nil {
			return "", fmt.Errorf("urlFile: %w", err)
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return "", errors.New("url: want http(s)://HOST[:PORT]/PATH, and a password in no URL but in tokenFile")
	}
	if r.Type == "alertmanager" {
		u = u.JoinPath("/api/v2/alerts")
	}
	return u.String(), nil
}

func (r *Receiver) wants(s model.Severity) bool {
	return len(r.Severities) == 0 || slices.Contains(r.Severities, s)
}

// sendWithin bounds one attempt.
const sendWithin = 10 * time.Second

// errRefused is an answer that will be the same the next time.
var errRefused = errors.New("refused")

// send posts once.
func (r *Receiver) send(ctx context.Context, body any) error {
	target, err := r.target()
	if err != nil {
		return err
	}
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(data))
	if err != nil {
		return errors.New("make the request")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "weft/"+version.Version)
	if r.TokenFile != "" {
		token, err := secret(r.TokenFile)
		if err != nil {
			return fmt.Errorf("tokenFile: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		var outer *url.Error // it says the URL
		if errors.As(err, &outer) {
			err = outer.Err
		}
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case resp.StatusCode/100 == 4 && resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusRequestTimeout:
		return fmt.Errorf("%w: %s", errRefused, resp.Status)
	}
	return fmt.Errorf("answered %s", resp.Status)
}

// alertmanagerAlert is postableAlert of Alertmanager's API, version 2.
type alertmanagerAlert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
}

func alertmanagerOf(x model.AlertSpec, ends time.Time) alertmanagerAlert {
	return alertmanagerAlert{Labels: map[string]string{"alertname": x.Type, "instance": x.Host, "severity": strings.ToLower(cmp.Or(string(x.Severity), string(model.SeverityWarning))), "source": "weft"},
		Annotations: map[string]string{"summary": x.Message}, StartsAt: x.Since, EndsAt: ends}
}
