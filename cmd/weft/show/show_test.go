package show

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"weft/internal/golden"
	"weft/model"
)

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59 * time.Second: "59s", 119 * time.Second: "119s", 3*time.Minute + 20*time.Second: "3m20s", 5 * time.Minute: "5m",
		45 * time.Minute: "45m", 179 * time.Minute: "179m", 7*time.Hour + 12*time.Minute: "7h12m", 30 * time.Hour: "30h", 76 * time.Hour: "3d4h", 40 * 24 * time.Hour: "40d",
	} {
		if got := Age(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 9999: "9999", 10_000: "10.0k", 1_234_567: "1.2M", 1 << 63: "9.2E"} {
		if got := Number(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1 << 30: "1.0 GiB", 1<<64 - 1: "16.0 EiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

var now = time.Date(2026, 11, 22, 15, 0, 0, 0, time.UTC)

func examples() []model.Resource {
	made := now.Add(-26 * time.Hour)
	ends := now.Add(40 * time.Minute)
	long := strings.Repeat("web-with-a-long-name-", 2) + "1"
	meta := func(name string) model.Metadata {
		return model.Metadata{Name: name, CreationTimestamp: &made, Generation: 3, Labels: map[string]string{"owner": "netops"}}
	}
	sel, _ := model.ParseSelector("app=web,env in (prod,stage),cloud.provider=aws,cloud.region=eu-central-1")
	ledger := model.Ledger{Seen: model.Count{Packets: 123456, Bytes: 99887766}, Filtered: model.Count{Packets: 3456, Bytes: 887766}, Delivered: model.Count{Packets: 120000, Bytes: 99000000}}
	fill := func(r model.Resource, f func()) model.Resource { f(); return r }
	host := &model.Host{TypeMeta: model.TypeMeta{Kind: model.KindHost}, Metadata: meta("web-1.eu.internal.example")}
	wl := &model.Workload{TypeMeta: model.TypeMeta{Kind: model.KindWorkload}, Metadata: meta("web-1:" + long)}
	group := &model.Group{TypeMeta: model.TypeMeta{Kind: model.KindGroup}, Metadata: meta("web"), Spec: model.GroupSpec{Selector: &sel, Groups: []string{"a", "b"}}, Status: model.GroupStatus{Members: 12, Hosts: 4}}
	tap := &model.Tap{TypeMeta: model.TypeMeta{Kind: model.KindTap}, Metadata: meta("web-to-ids"), Spec: model.TapSpec{From: model.Endpoints{Selector: &sel}, To: model.Endpoints{Group: "tools"}, Filter: "tcp port 80", Snaplen: 256}}
	return []model.Resource{
		fill(host, func() {
			host.Spec.Labels = map[string]string{"app": "web"}
			host.Status = model.HostStatus{State: model.HostOnline, LastSeen: &made, AgentVersion: "v0.1.0-123-gabcdef0-dirty", OS: "Debian GNU/Linux 12 (bookworm)", Kernel: "6.18.0", Arch: "amd64", CPUs: 2, MemoryBytes: 8 << 30,
				Interfaces: []model.Interface{{Name: "eth0", MAC: "02:00:00:00:00:01", MTU: 1500, Addresses: []string{"10.0.0.5/24"}, Uplink: true}}, Labels: map[string]string{"os.id": "debian"},
				Capabilities: map[string]string{"tap.tcx": "yes", "bpf.lsm": "no: EPERM"}, RemoteAddress: "192.0.2.1:4711", CertificateExpires: &ends,
				Sections: []model.SectionStatus{{Name: "capture", Desired: "b", Applied: "a", Error: "attach eth0: busy"}}, Workloads: 3}
		}),
		fill(wl, func() {
			wl.Spec = model.WorkloadSpec{Host: "web-1.eu.internal.example", Kind: model.WorkloadContainer, Addresses: []string{"172.18.0.2", "fd00::2", "10.1.1.1"}, Container: &model.Container{ID: strings.Repeat("0a", 32), Name: "front", Image: "nginx:1.27", Runtime: "containerd"}}
		}),
		&model.Alert{TypeMeta: model.TypeMeta{Kind: model.KindAlert}, Metadata: meta("web-1.eu.internal.example:AgentSilent"), Spec: model.AlertSpec{Host: "web-1.eu.internal.example", Type: "AgentSilent",
			Severity: model.SeverityCritical, Message: "the agent has no session and was last heard at 2026-11-20T09:59:30Z", Since: made, LastSeen: &made}},
		group,
		fill(tap, func() {
			tap.Status = model.TapStatus{State: model.TapDegraded, Message: "1 of 2 sources is offline", Ledger: ledger,
				Sources: []model.TapSource{{Workload: "web-1:front", Host: "web-1", State: "Capturing"}, {Workload: "web-2", Host: "web-2", State: "Offline", Message: "no session for 5m"}},
				Tools:   []model.TapTool{{Host: "ids", Device: "weft0", State: "Ready"}},
				Paths:   []model.TapPath{{Host: "web-1", Tool: "ids", State: "Connected", Path: "relay", Relay: "relay-1", Remote: "203.0.113.5:443", Since: &made, Ledger: ledger}, {Host: "web-2", Tool: "ids", State: "Error", Path: "direct", Message: "unreachable"}}}
		}),
		examplePolicy(meta("orders-db")),
		&model.Relay{TypeMeta: model.TypeMeta{Kind: model.KindRelay}, Metadata: meta("relay-1"), Spec: model.RelaySpec{Addresses: []string{"relay-1.example.org:443", "[2001:db8::1]:443"}}, Status: model.RelayStatus{State: model.HostOnline, Sessions: 12, Streams: 3, Bytes: 123456789}},
		&model.JoinToken{TypeMeta: model.TypeMeta{Kind: model.KindJoinToken}, Metadata: meta("edge"), Spec: model.JoinTokenSpec{Uses: 10, Labels: map[string]string{"site": "dc1"}}, Status: model.JoinTokenStatus{Used: 4, Expires: &ends}},
		&model.AccessToken{TypeMeta: model.TypeMeta{Kind: model.KindAccessToken}, Metadata: meta("ci"), Status: model.AccessTokenStatus{Expires: &made}},
	}
}

func examplePolicy(meta model.Metadata) *model.Policy {
	sel := func(text string) *model.Selector {
		s, _ := model.ParseSelector(text)
		return &s
	}
	port, end := 5432, 5439
	return &model.Policy{TypeMeta: model.TypeMeta{Kind: model.KindPolicy}, Metadata: meta,
		Spec: model.PolicySpec{Stage: model.StageActive, Subject: model.PolicySubject{Selector: sel("app=orders,role=db"), Processes: []model.PolicyProcess{{Exe: "/usr/lib/postgresql/17/bin/postgres"}}},
			Ingress: []model.PolicyRule{{Name: "api-to-postgres", Action: model.ActionAllow, From: []model.PolicyPeer{{Selector: sel("app=orders,role=api")}}, Ports: []model.PolicyPort{{Protocol: "TCP", Port: &port, EndPort: &end}}}},
			Egress:  []model.PolicyRule{{Action: model.ActionDeny, To: []model.PolicyPeer{{Entities: []model.Entity{model.EntityWorld}}, {IPBlocks: []model.IPBlock{{CIDR: "10.0.0.0/8", Except: []string{"10.1.0.0/16"}}}}}}}},
		Status: model.PolicyStatus{State: model.PolicyPending, Message: "host db-2 is offline: the agent has not reported yet", Workloads: 2, Targeted: 2, Applied: 1,
			Hosts: []model.PolicyHost{{Host: "db-2", State: "Offline", Message: "the agent has not reported yet"}},
			Rules: []model.PolicyRuleStatus{{Name: "api-to-postgres", Direction: "ingress", ID: "6b22d7cbd9d2a6a7", Connections: 1204, Packets: 99000, Bytes: 12345678}, {Name: "#0", Direction: "egress", ID: "0011223344556677"}}}}
}

// Tables fit a screen of 80 columns, whatever is in them, and names stay whole.
func TestTables(t *testing.T) {
	var all strings.Builder
	for _, r := range examples() {
		for _, wide := range []bool{false, true} {
			table := Table{Columns: Columns(r.GetKind(), wide)}
			if !wide {
				table.Width = 80
			}
			cells := Cells(r, wide, now)
			if len(cells) != len(table.Columns) {
				t.Fatalf("%s: %d cells under %d columns", r.GetKind(), len(cells), len(table.Columns))
			}
			table.Row(cells...)
			var b bytes.Buffer
			if err := table.Flush(&b); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(b.String()) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); !wide && n > 80 && r.GetKind() != model.KindWorkload {
					t.Errorf("%d columns: %s", n, line)
				}
			}
			if !strings.Contains(b.String(), r.Meta().Name) {
				t.Errorf("the name is cut: %s", b.String())
			}
			all.WriteString(b.String() + "\n")
		}
	}
	golden.Equal(t, "tables.golden", all.String())
}

func TestDescribe(t *testing.T) {
	var all bytes.Buffer
	for _, r := range examples() {
		if err := Describe(&all, r, false, now); err != nil {
			t.Fatal(err)
		}
		all.WriteString("\n")
	}
	golden.Equal(t, "describe.golden", all.String())
}

// Colours change nothing but colour.
func TestColoursKeepTheWidths(t *testing.T) {
	print := func(color bool) string {
		table := Table{Columns: Columns(model.KindHost, false), Color: color}
		table.Row("a", "Online", "1", "v", "o", "1s")
		table.Row("b", "Offline", "1", "v", "o", "1s")
		var b bytes.Buffer
		table.Flush(&b)
		return b.String()
	}
	plain, coloured := print(false), print(true)
	for _, code := range []string{"\x1b[32m", "\x1b[31m", "\x1b[0m"} {
		if !strings.Contains(coloured, code) {
			t.Errorf("no %q in %q", code, coloured)
		}
		coloured = strings.ReplaceAll(coloured, code, "")
	}
	if coloured != plain {
		t.Errorf("got %q, want %q", coloured, plain)
	}
}
