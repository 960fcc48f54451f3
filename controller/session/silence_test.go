package session

import (
	"slices"
	"testing"
	"time"

	"weft/model"
)

// audited are the verbs with which a host stands in the audit log, the oldest
// first.
func (h *house) audited(name string) []string {
	entries, err := h.store.Audit(h.t.Context(), 100)
	if err != nil {
		h.t.Fatal(err)
	}
	var out []string
	for _, e := range slices.Backward(entries) {
		if e.Object == "host/"+name && (e.Verb == "silent" || e.Verb == "heard") {
			if e.Actor != "controller" || e.Message == "" {
				h.t.Errorf("entry %+v", e)
			}
			out = append(out, e.Verb)
		}
	}
	return out
}

func TestSilenceIsInTheAuditLog(t *testing.T) {
	h := newHouse(t, Config{Heartbeat: 50 * time.Millisecond})
	c, _ := h.member("host", "web-1")
	st := h.mustOpen(c, "a")
	for err := error(nil); err == nil; {
		_, err = st.Receive() // says nothing itself, and is cut off
	}
	eventually(t, 5*time.Second, "silence noted", func() bool { return slices.Equal(h.audited("web-1"), []string{"silent"}) })
	h.mustOpen(c, "a")
	eventually(t, 5*time.Second, "return noted", func() bool {
		got := h.audited("web-1")
		return len(got) >= 2 && got[0] == "silent" && got[1] == "heard"
	})
	eventually(t, 5*time.Second, "silent again", func() bool { return slices.Equal(h.audited("web-1"), []string{"silent", "heard", "silent"}) })
	h.setHost("web-1", func(r *model.Host) { r.Spec.Revoked = true })
	time.Sleep(300 * time.Millisecond)
	if got := h.audited("web-1"); len(got) != 3 {
		t.Errorf("a revoked host is not heard again: %v", got)
	}
}

func TestManySilentHostsAreNotedALittleAtATime(t *testing.T) {
	h := newHouse(t, Config{Heartbeat: time.Hour})
	silent, noted := map[string]model.Condition{}, map[string]time.Time{}
	for i := range 3 * silenceNotes / 2 {
		silent["h"+string(rune('a'+i/26))+string(rune('a'+i%26))] = model.Condition{Message: "m", Since: h.now().Add(-24 * time.Hour)}
	}
	silent["restarting"] = model.Condition{Message: "m", Since: h.now()}
	h.noteSilenceOf(t.Context(), silent, noted)
	if len(noted) != silenceNotes {
		t.Errorf("%d at once", len(noted))
	}
	h.noteSilenceOf(t.Context(), silent, noted)
	if _, is := noted["restarting"]; len(noted) != len(silent)-1 || is {
		t.Errorf("%d of %d in the end", len(noted), len(silent))
	}
}
