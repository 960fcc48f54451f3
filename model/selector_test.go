package model

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParseSelector(t *testing.T) {
	for text, want := range map[string]string{
		"*":                               "*",
		" * ":                             "*",
		"app=web":                         "app=web",
		"app == web , tier!=db":           "app=web,tier!=db",
		"env in (stage, prod,prod)":       "env in (prod,stage)",
		"env notin (a,b),!legacy,owner":   "env notin (a,b),!legacy,owner",
		"env in (a)":                      "env=a",
		"cloud.tag/team/cost=x:y@z":       "cloud.tag/team/cost=x:y@z",
		"empty=":                          "empty=",
		"empty in (,x)":                   "empty in (,x)",
		"b=1,a=2":                         "a=2,b=1",
		"in in (in)":                      "in=in",
		"container.image=ghcr.io/a/b:1.2": "container.image=ghcr.io/a/b:1.2",
	} {
		s, err := ParseSelector(text)
		if err != nil || s.String() != want {
			t.Errorf("%q: got %q, %v, want %q", text, s, err, want)
		}
	}
}

func TestParseSelectorSaysWhereAndWhat(t *testing.T) {
	for text, want := range map[string]string{
		"":                    `is empty; write "*" to match everything`,
		"app=web,":            "ends after a comma",
		"app=web;tier=db":     `label value "web;tier"`,
		"app~web":             `label key "app~web"`,
		"app web":             `at column 5: after key "app" want =, !=, in, notin or a comma, have "web"`,
		"env in prod":         "at column 8: want '(' before the values",
		"env in (prod stage)": "at column 14: want ',' or ')' after a value",
		"=web":                `at column 1: want a label key, have "=web"`,
		"app=web db":          `at column 9: want ',' between requirements, have "db"`,
		"!":                   "label key is empty",
	} {
		_, err := ParseSelector(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want ...%s...", text, err, want)
		}
	}
}

func TestSelectorMatchesAsKubernetesDoes(t *testing.T) {
	labels := map[string]string{"app": "web", "env": "prod", "none": ""}
	for text, want := range map[string]bool{
		"*": true, "app=web": true, "app=db": false, "app!=db": true, "zone!=a": true, "zone=a": false,
		"env in (prod,stage)": true, "zone notin (a)": true, "app,env": true, "!app": false, "!zone": true,
		"none=": true, "none": true, "zone=": false, "app=web,env=stage": false,
	} {
		s, err := ParseSelector(text)
		if err != nil || s.Matches(labels) != want {
			t.Errorf("%q: %v, want %t", text, err, want)
		}
	}
}

func TestSelectorJSONForms(t *testing.T) {
	for in, want := range map[string]string{
		`"app=web"`:                         `"app=web"`,
		`{"matchLabels":{"b":"1","a":"2"}}`: `"a=2,b=1"`,
		`{"matchExpressions":[{"key":"k","operator":"In","values":["b","a"]}]}`:                `"k in (a,b)"`,
		`{"matchLabels":{"a":"1"},"matchExpressions":[{"key":"z","operator":"DoesNotExist"}]}`: `"a=1,!z"`,
	} {
		var s Selector
		if err := json.Unmarshal([]byte(in), &s); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if out, _ := json.Marshal(s); string(out) != want {
			t.Errorf("%s: got %s, want %s", in, out, want)
		}
	}
	for _, bad := range []string{
		`{}`, `""`, `7`, `{"matchLabel":{}}`, `{"matchExpressions":[{"key":"a","operator":"Is"}]}`,
		`{"matchExpressions":[{"key":"a","operator":"In"}]}`, `{"matchExpressions":[{"key":"a","operator":"Exists","values":["x"]}]}`,
	} {
		var s Selector
		if err := json.Unmarshal([]byte(bad), &s); err == nil {
			t.Errorf("%s was read as %q", bad, s)
		}
	}
}

func FuzzParseSelector(f *testing.F) {
	for _, s := range []string{"*", "a=b", "a in (b,c),!d", "x!=", "a notin (,)", "in", "notin in (in)", "a==b,a=b", "é=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSelector(text)
		if err != nil {
			return
		}
		again, err := ParseSelector(s.String())
		if err != nil || again.String() != s.String() {
			t.Errorf("%q prints as %q, which reads as %q, %v", text, s, again, err)
		}
		data, err := json.Marshal(s)
		var back Selector
		if err != nil || json.Unmarshal(data, &back) != nil || back.String() != s.String() {
			t.Errorf("%q does not survive JSON: %s, %v", text, data, err)
		}
	})
}
