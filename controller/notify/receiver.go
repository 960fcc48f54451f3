package notify

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"weft/controller/endpoint"
	"weft/model"
)

// Receivers is the file that says who is told of alerts.
type Receivers struct {
	Receivers []Receiver `yaml:"receivers"`
}

// Receiver is somebody who is told.
type Receiver struct {
	// Name is for logs.
	Name string `yaml:"name"`
	// Type is webhook, which is sent each change as JSON, or alertmanager, which is
	// sent all alerts in the form of Alertmanager's API, again and again.
	Type string `yaml:"type"`
	// Endpoint is that of the webhook, or an Alertmanager's without its path.
	endpoint.Endpoint `yaml:",inline"`
	// Severities are those that it is told of; all unless given.
	Severities []model.Severity `yaml:"severities,omitempty"`

	client *endpoint.Client
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
	if err := r.Endpoint.Check(); err != nil {
		errs = append(errs, err)
	}
	for _, s := range r.Severities {
		if s.Rank() == 0 {
			errs = append(errs, fmt.Errorf("severities: %q is none of Critical, Warning, Info", s))
		}
	}
	if len(errs) == 0 {
		var err error
		if r.client, err = endpoint.NewClient(&r.Endpoint); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
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
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	path := ""
	if r.Type == "alertmanager" {
		path = "/api/v2/alerts"
	}
	ctx, cancel := context.WithTimeout(ctx, sendWithin)
	defer cancel()
	resp, err := r.client.Post(ctx, path, http.Header{"Content-Type": {"application/json"}}, bytes.NewReader(data))
	if err != nil {
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
