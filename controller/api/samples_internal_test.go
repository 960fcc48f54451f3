package api

import (
	"testing"
	"time"

	"weft/model"
)

// A viewer sees processes without their command lines, in which passwords stand,
// and what others see stays as it is.
func TestViewersSeeNoCommands(t *testing.T) {
	s := &model.Sample{Host: "web1", Processes: []model.ProcessUse{{PID: 1, Name: "mysql", Command: "mysql --password=secret", CPU: 2}}}
	out := withoutCommands(s)
	if p := out.Processes[0]; p.Command != "" || p.Name != "mysql" || p.CPU != 2 || out.Host != "web1" {
		t.Errorf("a viewer sees %+v", p)
	}
	if s.Processes[0].Command == "" {
		t.Error("an admin sees no command either")
	}
}

func TestTheWorstAlert(t *testing.T) {
	at := time.Unix(1000, 0)
	old, late := &model.AlertSpec{Severity: model.SeverityWarning, Since: at}, &model.AlertSpec{Severity: model.SeverityWarning, Since: at.Add(time.Hour)}
	critical := &model.AlertSpec{Severity: model.SeverityCritical, Since: at.Add(2 * time.Hour)}
	for i, c := range []struct {
		a, b *model.AlertSpec
		want bool
	}{{critical, old, true}, {old, critical, false}, {old, late, true}, {late, old, false}} {
		if moreSevere(c.a, c.b) != c.want {
			t.Errorf("case %d", i)
		}
	}
}

func TestIntervals(t *testing.T) {
	for text, ok := range map[string]bool{"2s": true, "500ms": true, "10m": true, "1ms": false, "-1s": false, "1h": false, "soon": false} {
		if _, err := sampleInterval(text); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}
