package discover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"weft/model"
)

// Bounds on the questions to a metadata service.
const (
	cloudTimeout = 2 * time.Second
	maxMetadata  = 1 << 20
	cloudRefresh = time.Minute // tags change
	cloudRetry   = time.Second // doubled up to cloudRefresh
)

// watchCloud asks the clouds at the same time until one knows this machine,
// and that one again every minute. Machines without a cloud ask ever more
// rarely, for ever: the network may have come up late.
func (d *Discover) watchCloud(ctx context.Context) {
	if d.cfg.MetadataURL == "-" {
		return
	}
	m := newMetadata(d.cfg.MetadataURL)
	defer m.client.CloseIdleConnections()
	pause := cloudRetry
	for ctx.Err() == nil {
		labels, err := m.ask(ctx)
		if err == nil {
			d.setCloud(labels)
			pause = cloudRefresh
		} else {
			pause = min(2*pause, cloudRefresh)
		}
		d.first.heard(cloudVoice)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (d *Discover) setCloud(labels map[string]string) {
	d.parts.mu.Lock()
	changed := !maps.Equal(d.parts.cloud, labels)
	d.parts.cloud = labels
	d.parts.mu.Unlock()
	if changed {
		d.log.Info("cloud metadata", "provider", labels["cloud.provider"], "labels", len(labels))
		d.hear()
	}
}

// metadata asks the service at the link-local address. It follows no redirect
// and uses no proxy: the answer must come from that address.
type metadata struct {
	base   string
	client *http.Client
}

func newMetadata(base string) *metadata {
	return &metadata{base: strings.TrimRight(base, "/"), client: &http.Client{
		Timeout:       cloudTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DialContext: (&net.Dialer{Timeout: time.Second}).DialContext, MaxIdleConns: 4, IdleConnTimeout: 5 * time.Second},
	}}
}

// ask returns the labels of the first cloud that knows this machine.
func (m *metadata) ask(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*cloudTimeout)
	defer cancel()
	type answer struct {
		labels map[string]string
		err    error
	}
	clouds := []func(context.Context) (map[string]string, error){m.aws, m.gcp, m.azure}
	answers := make(chan answer, len(clouds))
	for _, cloud := range clouds {
		go func() {
			labels, err := cloud(ctx)
			answers <- answer{labels, err}
		}()
	}
	var errs []error
	for range clouds {
		a := <-answers
		if a.err == nil {
			return a.labels, nil
		}
		errs = append(errs, a.err)
	}
	return nil, errors.Join(errs...)
}

func (m *metadata) do(ctx context.Context, method, path string, header ...string) ([]byte, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, m.base+path, nil)
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMetadata))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return body, resp.Header, err
}

// aws speaks IMDSv2: a token first, which a forged request cannot ask for.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
func (m *metadata) aws(ctx context.Context) (map[string]string, error) {
	token, _, err := m.do(ctx, http.MethodPut, "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "60")
	if err != nil {
		return nil, err
	}
	get := func(path string) ([]byte, error) {
		body, _, err := m.do(ctx, http.MethodGet, "/latest/"+path, "X-aws-ec2-metadata-token", string(token))
		return body, err
	}
	document, err := get("dynamic/instance-identity/document")
	if err != nil {
		return nil, err
	}
	labels, err := parseAWS(document)
	if err != nil {
		return nil, err
	}
	if mac, err := get("meta-data/mac"); err == nil {
		if vpc, err := get("meta-data/network/interfaces/macs/" + string(bytes.TrimSpace(mac)) + "/vpc-id"); err == nil {
			labels.set("network", string(vpc))
		}
	}
	keys, err := get("meta-data/tags/instance")
	if err != nil {
		return labels, nil // tags are off unless allowed
	}
	for key := range strings.Lines(string(keys)) {
		if key = strings.TrimSpace(key); key == "" {
			continue
		}
		if value, err := get("meta-data/tags/instance/" + (&url.URL{Path: key}).EscapedPath()); err == nil {
			labels.set("tag/"+key, string(value))
		}
	}
	return labels, nil
}

// cloudLabels are labels under "cloud.".
type cloudLabels map[string]string

func (l cloudLabels) set(key, value string) {
	value = model.CleanLabelValue(strings.TrimSpace(value))
	// Tags may be named in any script; what a label's key may not hold becomes '_'.
	key = "cloud." + strings.NewReplacer("@", "_", "+", "_").Replace(model.CleanLabelValue(key))
	if (value != "" || strings.HasPrefix(key, "cloud.tag/")) && model.CheckLabelKey(key) == nil && len(l) < maxLabels {
		l[key] = value
	}
}

func parseAWS(document []byte) (cloudLabels, error) {
	var d struct{ InstanceID, Region, AvailabilityZone string }
	if err := json.Unmarshal(document, &d); err != nil {
		return nil, fmt.Errorf("instance identity document: %w", err)
	}
	if d.InstanceID == "" || d.Region == "" {
		return nil, errors.New("instance identity document: no instance id or region")
	}
	l := cloudLabels{"cloud.provider": "aws"}
	l.set("region", d.Region)
	l.set("zone", d.AvailabilityZone)
	l.set("instance-id", d.InstanceID)
	return l, nil
}

// gcp asks Google. Network tags become labels without a value; attributes do
// too only where they look like labels: they also hold scripts and keys.
// https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys
func (m *metadata) gcp(ctx context.Context) (map[string]string, error) {
	body, header, err := m.do(ctx, http.MethodGet, "/computeMetadata/v1/instance/?recursive=true", "Metadata-Flavor", "Google")
	if err != nil {
		return nil, err
	}
	if header.Get("Metadata-Flavor") != "Google" {
		return nil, errors.New("the answer is not Google's")
	}
	return parseGCP(body)
}

func parseGCP(body []byte) (cloudLabels, error) {
	var d struct {
		ID                json.RawMessage `json:"id"`
		Zone              string
		Tags              []string
		Attributes        map[string]string
		NetworkInterfaces []struct{ Network string }
	}
	if err := json.Unmarshal(body, &d); err != nil {
		return nil, fmt.Errorf("instance metadata: %w", err)
	}
	zone := path.Base(d.Zone) // projects/NUMBER/zones/ZONE
	if zone == "." || zone == "/" {
		return nil, errors.New("instance metadata: no zone")
	}
	l := cloudLabels{"cloud.provider": "gcp"}
	l.set("zone", zone)
	if i := strings.LastIndexByte(zone, '-'); i > 0 {
		l.set("region", zone[:i])
	}
	l.set("instance-id", strings.Trim(string(d.ID), `"`))
	if len(d.NetworkInterfaces) > 0 {
		l.set("network", path.Base(d.NetworkInterfaces[0].Network))
	}
	for _, tag := range d.Tags {
		l.set("tag/"+tag, "")
	}
	for key, value := range d.Attributes {
		// A value that would have to be cleaned is no label but a script or a key.
		if model.CheckLabelValue(value) == nil && !secretKey(key) {
			l.set("tag/"+key, value)
		}
	}
	return l, nil
}

// secretKey says whether an attribute's name sounds like something that must
// not leave the machine.
func secretKey(key string) bool {
	key = strings.ToLower(key)
	for _, word := range []string{"key", "secret", "token", "password", "passwd", "script", "credential", "kube-env", "user-data"} {
		if strings.Contains(key, word) {
			return true
		}
	}
	return false
}

// azure asks Microsoft.
// https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service
func (m *metadata) azure(ctx context.Context) (map[string]string, error) {
	body, _, err := m.do(ctx, http.MethodGet, "/metadata/instance?api-version=2021-02-01", "Metadata", "true")
	if err != nil {
		return nil, err
	}
	return parseAzure(body)
}

func parseAzure(body []byte) (cloudLabels, error) {
	var d struct {
		Compute struct {
			Location, Zone, VMID, ResourceGroupName string
			TagsList                                []struct{ Name, Value string }
		}
		Network struct {
			Interface []struct {
				IPv4 struct {
					Subnet []struct{ Address, Prefix string }
				}
			}
		}
	}
	if err := json.Unmarshal(body, &d); err != nil {
		return nil, fmt.Errorf("instance metadata: %w", err)
	}
	if d.Compute.VMID == "" || d.Compute.Location == "" {
		return nil, errors.New("instance metadata: no vmId or location")
	}
	l := cloudLabels{"cloud.provider": "azure"}
	l.set("region", d.Compute.Location)
	l.set("zone", d.Compute.Zone)
	l.set("instance-id", d.Compute.VMID)
	// The service does not name the virtual network; the subnet stands for it.
	if n := d.Network.Interface; len(n) > 0 && len(n[0].IPv4.Subnet) > 0 {
		l.set("network", n[0].IPv4.Subnet[0].Address+"/"+n[0].IPv4.Subnet[0].Prefix)
	}
	for _, tag := range d.Compute.TagsList {
		l.set("tag/"+tag.Name, tag.Value)
	}
	return l, nil
}
