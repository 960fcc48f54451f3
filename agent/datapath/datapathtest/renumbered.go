package datapathtest

import (
	"testing"

	"weft/model"
)

// renumbered: open connections go on where every identity gets another number, as
// when a policy asks about one more label.
func (s *suite) renumbered(t *testing.T) {
	policies := []string{`
  subject: {selector: "app in (web,unit)"}
  egress: [{action: Allow, to: [{selector: "app in (db,machine)"}]}]`, `
  subject: {selector: "app in (db,machine)"}
  ingress: [{action: Allow, from: [{selector: "app in (web,unit)"}]}]`}
	s.apply(t, s.World(model.ModeEnforce, policies...))
	between := s.Hold(t, "c1", "c2", "tcp", 80)
	within := between
	if s.options.SeesSockets { // to others, who sends from the machine is the machine
		within = s.Hold(t, "unit", "machine", "tcp", 80)
	}
	s.more = []map[string]string{{"a": "1"}, {"a": "2"}, {"a": "3"}}
	defer func() { s.more = nil }()
	s.apply(t, s.World(model.ModeEnforce, policies...))
	if got := between(); got != Allowed {
		t.Errorf("between two containers: %s", got)
	}
	if got := within(); got != Allowed {
		t.Errorf("between a unit and its machine: %s", got)
	}
}
