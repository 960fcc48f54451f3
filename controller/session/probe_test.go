package session

import (
	"testing"
	"time"

	"weft/controller/probes"
	"weft/wire/wirepb"
)

// A host is told of a probe when somebody runs one, and of no probe in its next
// session: what it was asked for has ended with the one before.
func TestProbesEndWithTheSession(t *testing.T) {
	all := probes.New()
	h := newHouseWith(t, Config{}, Deps{Probes: all})
	c, uid := h.member("host", "web")
	st := h.mustOpen(c, "one")
	x, err := all.Start([]probes.Target{{UID: uid, Host: "web", Online: true}}, &wirepb.ProbeSpec{Kind: "tcp", Target: "x:1", TimeMillis: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Cancel()
	for {
		m, err := st.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if o := m.GetProbes(); len(o.GetOrders()) == 1 && o.Orders[0].Id == x.ID {
			break
		}
	}
	if err := st.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Probe{Probe: &wirepb.ProbeProgress{Id: x.ID, Result: &wirepb.ProbeResult{Asked: 5, Ok: 4}}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "what the host says", func() bool { r := x.Parts()[0].Result; return r != nil && r.OK == 4 })
	_ = st.CloseRequest()
	_ = st.CloseResponse()
	eventually(t, 5*time.Second, "its part ends", func() bool { return x.Parts()[0].Ended })
	if o, _, _ := all.Wanted(uid, 0); o != nil {
		t.Errorf("the next session is told %v", o)
	}
}
