package metadata

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

var instance = Instance{
	Name: "web-1", Address: "10.2.0.10", Subnet: "10.2.0.0/24", MAC: "02:00:00:00:00:01",
	Tags: map[string]string{"app": "web", "team/cost": "7"},
}

func handler(t *testing.T, provider string) http.Handler {
	t.Helper()
	i := instance
	i.Provider = provider
	h, err := Handler(i)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func ask(h http.Handler, method, target string, headers ...string) (int, string) {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestAWSNeedsAToken(t *testing.T) {
	h := handler(t, "aws")
	const ttl = "X-aws-ec2-metadata-token-ttl-seconds"
	for _, c := range []struct {
		method, target string
		headers        []string
		want           int
	}{
		{"GET", "/latest/meta-data/instance-id", nil, 401},
		{"GET", "/latest/meta-data/instance-id", []string{"X-aws-ec2-metadata-token", "made-up"}, 401},
		{"PUT", "/latest/api/token", nil, 400},
		{"PUT", "/latest/api/token", []string{ttl, "0"}, 400},
		{"PUT", "/latest/api/token", []string{ttl, "21601"}, 400},
		{"GET", "/latest/api/token", []string{ttl, "60"}, 405},
		{"PUT", "/latest/api/token", []string{ttl, "60", "X-Forwarded-For", "10.0.0.1"}, 403},
	} {
		if got, _ := ask(h, c.method, c.target, c.headers...); got != c.want {
			t.Errorf("%s %s %v: status %d, want %d", c.method, c.target, c.headers, got, c.want)
		}
	}
	status, token := ask(h, "PUT", "/latest/api/token", ttl, "60")
	if status != 200 {
		t.Fatalf("token: status %d", status)
	}
	for target, want := range map[string]string{
		"/latest/meta-data/placement/availability-zone":                      "us-east-1a",
		"/latest/meta-data/placement/region":                                 "us-east-1",
		"/latest/meta-data/tags/instance/":                                   "app\nteam/cost",
		"/latest/meta-data/tags/instance/team/cost":                          "7",
		"/latest/meta-data/network/interfaces/macs/":                         "02:00:00:00:00:01/",
		"/latest/meta-data/network/interfaces/macs/02:00:00:00:00:01/vpc-id": "vpc-0123456789abcdef0",
	} {
		if status, got := ask(h, "GET", target, "X-aws-ec2-metadata-token", token); status != 200 || got != want {
			t.Errorf("%s: %d %q, want %q", target, status, got, want)
		}
	}
	if status, _ := ask(h, "GET", "/latest/meta-data/public-ipv4", "X-aws-ec2-metadata-token", token); status != 404 {
		t.Errorf("public-ipv4 of a machine without one: status %d, want 404", status)
	}
	_, doc := ask(h, "GET", "/latest/dynamic/instance-identity/document", "X-aws-ec2-metadata-token", token)
	var d map[string]any
	if err := json.Unmarshal([]byte(doc), &d); err != nil || d["region"] != "us-east-1" || !strings.HasPrefix(d["instanceId"].(string), "i-") {
		t.Errorf("document %s: %v", doc, err)
	}
}

func TestGCPNeedsItsHeader(t *testing.T) {
	h := handler(t, "gcp")
	if status, _ := ask(h, "GET", "/computeMetadata/v1/instance/name"); status != 403 {
		t.Errorf("without the header: status %d, want 403", status)
	}
	for target, want := range map[string]string{
		"/computeMetadata/v1/instance/name":                    "web-1",
		"/computeMetadata/v1/instance/attributes/app":          "web",
		"/computeMetadata/v1/instance/zone":                    "projects/100000000001/zones/us-central1-a",
		"/computeMetadata/v1/instance/network-interfaces/0/ip": "10.2.0.10",
		"/computeMetadata/v1/project/project-id":               "lab-project",
		"/computeMetadata/v1/":                                 "instance/\nproject/\n",
	} {
		if status, got := ask(h, "GET", target, "Metadata-Flavor", "Google"); status != 200 || got != want {
			t.Errorf("%s: %d %q, want %q", target, status, got, want)
		}
	}
	_, body := ask(h, "GET", "/computeMetadata/v1/?recursive=true", "Metadata-Flavor", "Google")
	var all struct {
		Instance struct {
			ID         json.Number
			Attributes map[string]string
			Zone       string
		}
		Project struct{ ProjectID string }
	}
	if err := json.Unmarshal([]byte(body), &all); err != nil || all.Instance.Attributes["app"] != "web" || all.Project.ProjectID != "lab-project" {
		t.Errorf("recursive: %v %s", err, body)
	}
	if status, _ := ask(h, "GET", "/computeMetadata/v1/instance/nothing", "Metadata-Flavor", "Google"); status != 404 {
		t.Errorf("unknown: status %d, want 404", status)
	}
}

func TestAzureNeedsHeaderAndVersion(t *testing.T) {
	h := handler(t, "azure")
	const good = "/metadata/instance?api-version=2021-02-01"
	for _, c := range []struct {
		target  string
		headers []string
		want    int
	}{
		{good, nil, 400},
		{"/metadata/instance", []string{"Metadata", "true"}, 400},
		{good, []string{"Metadata", "true", "X-Forwarded-For", "10.0.0.1"}, 400},
		{"/metadata/instance/nothing?api-version=2021-02-01", []string{"Metadata", "true"}, 404},
		{good, []string{"Metadata", "true"}, 200},
	} {
		if got, _ := ask(h, "GET", c.target, c.headers...); got != c.want {
			t.Errorf("%s %v: status %d, want %d", c.target, c.headers, got, c.want)
		}
	}
	_, body := ask(h, "GET", good, "Metadata", "true")
	var all struct {
		Compute struct {
			Location, Zone, VMID string
			TagsList             []struct{ Name, Value string }
		}
	}
	if err := json.Unmarshal([]byte(body), &all); err != nil || all.Compute.Location != "westeurope" || all.Compute.TagsList[0].Value != "web" {
		t.Errorf("instance: %v %s", err, body)
	}
	if _, got := ask(h, "GET", "/metadata/instance/compute/name?api-version=2021-02-01&format=text", "Metadata", "true"); got != "web-1" {
		t.Errorf("leaf: %q", got)
	}
}
