package lab_test

import (
	"strings"
	"testing"
)

func TestMetadataServices(t *testing.T) {
	need(t, "curl")
	l := up(t, `
  switches:
  - {name: a, metadata: {provider: aws, region: eu-central-1, zone: eu-central-1b}}
  - {name: g, metadata: {provider: gcp, account: proj}}
  - {name: z, metadata: {provider: azure}}
  hosts:
  - {name: ec2, attach: a, metadata: {tags: {app: web}}, containers: [{name: c}]}
  - {name: ec2b, attach: a, metadata: {zone: eu-central-1c}}
  - {name: gce, attach: g}
  - {name: vm, attach: z}
`)
	const imds = `T=$(curl -sf -m5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)
m() { curl -sf -m5 -H "X-aws-ec2-metadata-token: $T" http://169.254.169.254/latest/$1; echo; }
`
	ec2 := l.Host("ec2")
	mac := sh(t, ec2, "cat /sys/class/net/eth0/address")
	got := sh(t, ec2, imds+"m meta-data/placement/availability-zone; m meta-data/tags/instance/app; m meta-data/network/interfaces/macs/"+mac+"/local-ipv4s")
	if want := "eu-central-1b\nweb\n" + ec2.Addresses()[0].String(); got != want {
		t.Errorf("AWS: %q, want %q", got, want)
	}
	// A container asks through its host, as on a real machine.
	if got := sh(t, ec2.Container("c"), imds+"m meta-data/tags/instance/app"); got != "web" {
		t.Errorf("AWS from a container: %q", got)
	}
	if got := sh(t, l.Host("ec2b"), imds+"m meta-data/placement/availability-zone"); got != "eu-central-1c" {
		t.Errorf("AWS, the neighbour: %q", got)
	}
	if got := sh(t, ec2, "curl -s -m5 -o /dev/null -w '%{http_code}' http://169.254.169.254/latest/meta-data/"); got != "401" {
		t.Errorf("AWS without a token: %s", got)
	}
	if got := sh(t, l.Host("gce"), "curl -sf -m5 -H 'Metadata-Flavor: Google' http://169.254.169.254/computeMetadata/v1/project/project-id"); got != "proj" {
		t.Errorf("GCP: %q", got)
	}
	if got := sh(t, l.Host("vm"), "curl -sf -m5 -H 'Metadata: true' 'http://169.254.169.254/metadata/instance?api-version=2021-02-01'"); !strings.Contains(got, `"name":"vm"`) {
		t.Errorf("Azure: %q", got)
	}
}
