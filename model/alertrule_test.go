package model

import (
	"strings"
	"testing"
)

func TestAlertRules(t *testing.T) {
	rule := func(spec string) error {
		_, err := DecodeJSON([]byte(`{"apiVersion":"weft/v1","kind":"AlertRule","metadata":{"name":"r"},"spec":` + spec + `}`))
		return err
	}
	for _, spec := range []string{`{"metric":"process.cpu","match":"kvm","above":80,"clear":60.5,"for":"30s","severity":"Critical","hosts":"role=hypervisor"}`, `{"metric":"process.count","match":"sshd","below":1}`, `{"metric":"filesystem","match":"/var*","above":90}`} {
		if err := rule(spec); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
	}
	for spec, want := range map[string]string{
		`{"metric":"cup","above":80}`:                      `did you mean "cpu"`,
		`{"metric":"cpu"}`:                                 "one of above and below",
		`{"metric":"cpu","above":80,"below":1}`:            "one of above and below",
		`{"metric":"cpu","above":80,"clear":90}`:           "wrong side",
		`{"metric":"cpu","above":"80"}`:                    "want a number",
		`{"metric":"cpu","above":80,"match":"x"}`:          "leave match out",
		`{"metric":"process.cpu","above":80,"match":"["}`:  "no pattern",
		`{"metric":"process.count","below":1}`:             "which processes",
		`{"metric":"cpu","above":80,"for":"2 days"}`:       "no duration",
		`{"metric":"cpu","above":80,"severity":"Serious"}`: "Critical, Warning, Info",
	} {
		if err := rule(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
	above := 80.0
	if got := (AlertRuleSpec{Metric: "process.cpu", Match: "kvm", Above: &above, For: "5m"}).Condition(); got != "process.cpu of kvm above 80 for 5m" {
		t.Errorf("the condition reads %q", got)
	}
}
