package main

import (
	"strings"
	"testing"
	"time"

	"weft/controller/observe"
	"weft/model"
)

// A machine whose clock is hours or days off joins and works all the same, and
// both sides say so.
func TestClockFarOff(t *testing.T) {
	for off, says := range map[string]string{
		"-5h":   "the host's clock is 5h0m0s behind the controller's; set it, or run an NTP client there",
		"5h":    "the host's clock is 5h0m0s ahead of the controller's; set it, or run an NTP client there",
		"-240h": "the host's clock is 240h0m0s behind the controller's; set it, or run an NTP client there",
		"140h":  "the host's clock is 140h0m0s ahead of the controller's; set it, or run an NTP client there",
		"240h":  "the host's clock is 240h0m0s ahead of the controller's; set it, or run an NTP client there",
	} {
		t.Run(off, func(t *testing.T) {
			t.Setenv("WEFT_TEST_CLOCK", off)
			c := newControl(t)
			dir := t.TempDir()
			args := agentArgs(c, dir, "web-1", c.tokenFile("join", nil))
			p := startAgent(t, args...)
			eventually(t, 10*time.Second, "host online with applied sections", func() bool { return c.online("web-1") })
			skew := func(h model.HostStatus) string {
				for _, c := range h.Conditions {
					if c.Type == observe.ConditionClockSkew {
						return c.Message
					}
				}
				return ""
			}
			got := skew(c.status("web-1"))
			// The message is rounded to a tenth of a second, and the way takes time.
			want, _, _ := strings.Cut(says, "h0m")
			if beginning, _, _ := strings.Cut(got, "h"); got == "" || !strings.HasSuffix(got, "set it, or run an NTP client there") ||
				(beginning+"h" != want+"h" && !strings.Contains(got, "h59m59.9s") && !strings.Contains(got, "h0m0")) {
				t.Errorf("the condition says %q, want %q", got, says)
			}
			// It can be started again with what it has on disk.
			p.kill()
			p = startAgent(t, args...)
			if off == "240h" {
				// A certificate that ended more than a week ago by this clock may be a
				// stolen one: it is refused, and what to do is said.
				eventually(t, 10*time.Second, "the agent says that its clock is fast", func() bool {
					return p.said("after the controller's certificate ended") && p.said("if the controller's clock is right, it is fast by") && p.said("set it")
				})
			} else {
				eventually(t, 10*time.Second, "host online after a restart", func() bool { return c.online("web-1") })
			}
			if st := c.status("web-1"); st.CertificateExpires == nil || time.Until(*st.CertificateExpires) < time.Hour {
				t.Errorf("certificate ends %v", st.CertificateExpires)
			}
			p.kill()
			// With the clock set right the condition goes.
			t.Setenv("WEFT_TEST_CLOCK", "0s")
			startAgent(t, args...)
			eventually(t, 20*time.Second, "the condition goes", func() bool { st := c.status("web-1"); return st.State == model.HostOnline && skew(st) == "" })
		})
	}
}
