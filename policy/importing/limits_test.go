package importing

import (
	"fmt"
	"strings"
	"testing"

	"weft/model"
)

// What would grow without end is refused with a place, before it has grown.
func TestLimits(t *testing.T) {
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&bomb, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	var calls strings.Builder
	calls.WriteString("*filter\n:INPUT ACCEPT\n")
	for i := range 40 {
		fmt.Fprintf(&calls, ":c%d -\n", i)
	}
	calls.WriteString("-A INPUT -j c0\n")
	for i := range 39 {
		for range 2 {
			fmt.Fprintf(&calls, "-A c%d -j c%d\n", i, i+1)
		}
	}
	calls.WriteString("-A c39 -j DROP\nCOMMIT\n")
	var returns strings.Builder
	returns.WriteString("*filter\n:INPUT ACCEPT\n:a -\n-A INPUT -j a\n")
	for i := range 400 {
		fmt.Fprintf(&returns, "-A a -s 10.%d.%d.0/24 -p tcp --dport %d -j RETURN\n", i/256, i%256, i+1)
	}
	returns.WriteString("-A a -j DROP\nCOMMIT\n")
	subject := model.Selector{}
	for _, c := range []struct {
		name   string
		format Format
		text   string
		want   string
	}{
		{"aliases", Kubernetes, bomb.String(), "cannot be read: holds too many values"},
		{"an alias of itself", Kubernetes, "a: &a\n  b: *a\n", "contains itself"},
		{"nested lists", Kubernetes, strings.Repeat("[", 5000), "is nested deeper than 100; no manifest is"},
		{"nested dashes", Kubernetes, strings.Repeat("- ", 5000) + "x", "is nested deeper than 100; no manifest is"},
		{"nested JSON", AWS, "{\"a\":" + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "}", "is nested"},
		{"calls", IPTables, calls.String(), "makes more than 10000 rules"},
		{"returns", IPTables, returns.String(), "is too entangled to follow"},
		{"a large file", IPTables, strings.Repeat("#", MaxFile+1), "is larger than 16 MiB; split it"},
	} {
		_, err := Import(c.format, []File{{"f", []byte(c.text)}}, Options{Subject: &subject})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "f:") {
			t.Errorf("%s: %.300v, want %s", c.name, err, c.want)
		}
	}
}

// --subject narrows every subject.
func TestSubjectNarrows(t *testing.T) {
	subject, err := model.ParseSelector("k8s.cluster=a")
	if err != nil {
		t.Fatal(err)
	}
	text := "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}}\n"
	result, err := Import(Kubernetes, []File{{"f", []byte(text)}}, Options{Subject: &subject})
	if err != nil || len(result.Policies) != 3 {
		t.Fatalf("%v, %+v", err, result)
	}
	for _, p := range result.Policies {
		if !strings.Contains(p.Spec.Subject.Selector.String(), "k8s.cluster=a") {
			t.Errorf("%s is for %s", p.Metadata.Name, p.Spec.Subject.Selector)
		}
	}
}
