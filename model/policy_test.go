package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"weft/internal/golden"
)

func readPolicy(t *testing.T, text string) (*Policy, error) {
	t.Helper()
	var doc any
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	return DecodePolicy(doc)
}

// Every testdata/policy/*.bad.yaml is refused with exactly the message beside it.
func TestBadPolicies(t *testing.T) {
	files, err := filepath.Glob("testdata/policy/*.bad.yaml")
	if err != nil || len(files) < 10 {
		t.Fatalf("fixtures: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = readPolicy(t, string(data))
			var faults FieldErrors
			if !errors.As(err, &faults) {
				t.Fatalf("accepted, or not FieldErrors: %v", err)
			}
			var out strings.Builder
			for _, f := range faults {
				fmt.Fprintln(&out, f)
			}
			golden.Equal(t, "policy/"+strings.TrimSuffix(filepath.Base(file), ".yaml")+".golden", out.String())
		})
	}
}

const goodPolicy = `
apiVersion: weft/v1
kind: Policy
metadata: {name: orders-db}
spec:
  tier: Application
  priority: 0
  stage: Active
  stateful: false
  subject: {selector: "app=orders,role=db", processes: [{exe: /usr/bin/postgres, user: postgres, cgroup: /system.slice}]}
  ingress:
  - name: api-to-postgres
    action: Allow
    from: [{selector: "app=orders,role=api", processes: [{exe: /srv/orders/api}]}]
    ports: [{protocol: TCP, port: 5432, endPort: 5433}, {protocol: "47"}, {protocol: ICMP, icmp: {type: 8, code: 0}}]
  egress:
  - {name: dns, action: Allow, to: [{entities: [dns]}], ports: [{protocol: UDP, port: 53}]}
  - {name: repo, action: Allow, to: [{domainNames: ["*.debian.org"]}]}
  - {name: lan, action: Pass, to: [{ipBlocks: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16], includeManaged: true}, {cidr: 10.1.2.0/24}]}]}
  - {name: no-internet, action: Deny, to: [{entities: [world]}]}
`

func TestGoodPolicySurvives(t *testing.T) {
	p, err := readPolicy(t, goodPolicy)
	if err != nil {
		t.Fatal(err)
	}
	if p.Spec.PriorityOrDefault() != 0 || p.Spec.IsStateful() || p.Spec.StageOrDefault() != StageActive {
		t.Errorf("read %+v", p.Spec)
	}
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	again, err := readPolicy(t, string(data))
	if err != nil {
		t.Fatal(err)
	}
	if more, _ := json.Marshal(again); string(more) != string(data) {
		t.Errorf("got  %s\nwant %s", more, data)
	}
}

// An empty list says "nothing is allowed" and must not be read back as silence.
func TestEmptyDirectionIsKept(t *testing.T) {
	p, err := readPolicy(t, `{apiVersion: weft/v1, kind: Policy, metadata: {name: p}, spec: {subject: {selector: "*"}, ingress: []}}`)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := json.Marshal(p)
	if p.Spec.Ingress == nil || p.Spec.Egress != nil || !strings.Contains(string(data), `"ingress":[]`) {
		t.Errorf("got %s", data)
	}
}

func TestRulesUpToTheLimit(t *testing.T) {
	text := func(n int) string {
		var b strings.Builder
		b.WriteString(`{"apiVersion":"weft/v1","kind":"Policy","metadata":{"name":"p"},"spec":{"subject":{"selector":"*"},"ingress":[`)
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"name":"r%d","action":"Allow","from":[{"ipBlocks":[{"cidr":"10.%d.%d.0/24"}]}],"ports":[{"protocol":"TCP","port":%d}]}`, i, i/256, i%256, i+1)
		}
		b.WriteString("]}}")
		return b.String()
	}
	decode := func(n int) error {
		var doc any
		if err := json.Unmarshal([]byte(text(n)), &doc); err != nil {
			t.Fatal(err)
		}
		_, err := DecodePolicy(doc)
		return err
	}
	if err := decode(MaxPolicyRules); err != nil {
		t.Errorf("%d rules: %v", MaxPolicyRules, err)
	}
	if err := decode(MaxPolicyRules + 1); err == nil || err.Error() != "spec: has 10001 rules; 10000 at most, put the rest into another policy" {
		t.Errorf("got %v", err)
	}
}

func FuzzDecodePolicy(f *testing.F) {
	var doc any
	if err := yaml.Unmarshal([]byte(goodPolicy), &doc); err != nil {
		f.Fatal(err)
	}
	seed, _ := json.Marshal(doc)
	f.Add(string(seed))
	f.Add(`{"apiVersion":"weft/v1","kind":"Policy","metadata":{"name":"p"},"spec":{"subject":{"selector":"*"},"egress":[{"action":"Allow","ports":[{"protocol":"ICMP","icmp":{}}]}]}}`)
	f.Add(`{"apiVersion":"weft/v1","kind":"Policy","metadata":{"name":"p"},"spec":{"subject":{"selector":"a"},"egress":[{"action":"Deny","to":[{"ipBlocks":[{"cidr":"::/0","except":["::1/128"]}]}]}]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var doc any
		if json.Unmarshal([]byte(text), &doc) != nil {
			return
		}
		p, err := DecodePolicy(doc)
		if err != nil {
			return
		}
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var back any
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		again, err := DecodePolicy(back)
		if err != nil {
			t.Fatalf("%s reads back with %v", data, err)
		}
		if more, _ := json.Marshal(again); string(more) != string(data) {
			t.Errorf("%s reads back as %s", data, more)
		}
	})
}

func FuzzParseCIDR(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8", "::ffff:1.2.3.4/128", "::ffff:0:0/90", "fe80::1%a/64", "1.2.3.4", "/", "::/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParseCIDR(text)
		if err == nil && (p != p.Masked() || p.Addr().Is4In6() || !p.IsValid()) {
			t.Errorf("%q was read as %s", text, p)
		}
	})
}
