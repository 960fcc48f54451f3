package observe

import (
	"slices"
	"strings"
	"testing"
	"time"

	"weft/model"
	"weft/wire/wirepb"
)

func alertsOf(o *Observer) []string {
	var out []string
	for _, a := range o.Alerts() {
		out = append(out, a.Metadata.Name+" "+string(a.Spec.Severity))
	}
	return out
}

func TestSilentHostIsAnAlertAtOnce(t *testing.T) {
	o, _, i := fleet(t, Config{})
	if got := alertsOf(o); len(got) != 0 {
		t.Fatalf("all is well, and there is %v", got)
	}
	heard := o.now()
	o.Seen(id("web"), 0)
	gone := heard.Add(20 * time.Second)
	o.now = func() time.Time { return gone }
	changed := o.Changed()
	o.Disconnected(id("web"))
	select {
	case <-changed:
	default:
		t.Error("watchers are not woken")
	}
	if got := alertsOf(o); !slices.Equal(got, []string{"web:AgentSilent Critical"}) {
		t.Fatalf("got %v", got)
	}
	a := o.Alerts()[0]
	if !a.Spec.Since.Equal(gone.UTC().Truncate(time.Second)) || a.Spec.LastSeen == nil || a.Spec.LastSeen.Sub(heard).Abs() > time.Second ||
		!strings.Contains(a.Spec.Message, a.Spec.LastSeen.Format(time.RFC3339)) || a.Metadata.Labels["host.name"] != "web" || a.Metadata.Labels["alert.severity"] != "Critical" {
		t.Errorf("%+v", a)
	}
	st := o.HostStatus(i.Hosts[0])
	if len(st.Conditions) != 1 || st.Conditions[0].Type != ConditionSilent || st.Conditions[0].Since != a.Spec.Since || st.State != model.HostOffline {
		t.Errorf("the host's own: %+v", st)
	}
	if silent := o.Silent(); len(silent) != 1 || silent["web"].Type != ConditionSilent {
		t.Errorf("silent: %v", silent)
	}
	o.Connected(id("web"), Peer{}, nil)
	if got := alertsOf(o); len(got) != 0 {
		t.Errorf("it is back, and there is %v", got)
	}
}

func TestRevokedHostIsNotWaitedFor(t *testing.T) {
	o, _, i := fleet(t, Config{})
	o.Disconnected(id("web"))
	revoked := *i.Hosts[0]
	revoked.Spec.Revoked = true
	o.SetIntent(Intent{Hosts: []*model.Host{&revoked, i.Hosts[1]}})
	if got := alertsOf(o); len(got) != 0 || len(o.Silent()) != 0 {
		t.Errorf("got %v, %v", got, o.Silent())
	}
}

// After its start a controller waits for the agents to come back, and then says
// who did not: by the file of last reports, or since it joined.
func TestControllerThatBeganWaitsForItsAgents(t *testing.T) {
	began := time.Now()
	now := began
	o := New(Config{}, Deps{})
	o.now = func() time.Time { return now }
	joined := began.Add(-time.Hour)
	never, known, late := hostOf("never"), hostOf("known"), hostOf("late")
	never.Metadata.CreationTimestamp = &joined
	o.host(known.Metadata.UID).lastSeen = began.Add(-time.Minute)
	o.SetIntent(Intent{Hosts: []*model.Host{never, known, late}})
	if got := alertsOf(o); len(got) != 0 {
		t.Errorf("at once: %v", got)
	}
	now = began.Add(returnWithin + time.Second)
	just := now
	late.Metadata.CreationTimestamp = &just
	if got := alertsOf(o); !slices.Equal(got, []string{"known:AgentSilent Critical", "never:AgentSilent Critical"}) {
		t.Errorf("later: %v", got)
	}
	if since := o.Silent()["known"].Since; !since.Equal(began.Add(-time.Minute).UTC().Truncate(time.Second)) {
		t.Errorf("silent since %s", since)
	}
	now = now.Add(returnWithin)
	if got := alertsOf(o); len(got) != 3 {
		t.Errorf("in the end: %v", got)
	}
}

func TestConditionsOfAgentsAreAlerts(t *testing.T) {
	o, _, _ := fleet(t, Config{})
	o.Facts(id("web"), &wirepb.HostFacts{Conditions: []*wirepb.Condition{
		{Type: "PolicyTampered", Status: "True", Message: "a program was taken off; it has been put back", Since: 1000},
		{Type: "CallerForged", Status: "True"}, {Type: "CallerUnknown", Status: "True"}, {Type: "OfALaterVersion", Status: "True"},
		{Type: "OfALaterVersion", Status: "True"},                           // twice
		{Type: ConditionSilent, Status: "True", Message: "lies"},            // not theirs to say
		{Type: "a b\nc", Status: "True", Message: strings.Repeat("x", 1e5)}, // of a hostile agent
		{Type: ""},
	}})
	got := alertsOf(o)
	want := []string{"web:CallerForged Critical", "web:CallerUnknown Info", "web:OfALaterVersion Warning", "web:PolicyTampered Critical", "web:a_b_c Warning"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for _, a := range o.Alerts() {
		if len(a.Spec.Message) > maxMessage {
			t.Errorf("%s: a message of %d bytes", a.Metadata.Name, len(a.Spec.Message))
		}
	}
}
