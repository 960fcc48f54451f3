package reach

import (
	"strings"
	"testing"

	"weft/lab"
)

func places(names ...string) []*lab.Place {
	var out []*lab.Place
	for _, n := range names {
		kind := lab.PlaceHost
		if strings.Contains(n, ":") {
			kind = lab.PlaceContainer
		}
		out = append(out, &lab.Place{Name: n, Kind: kind})
	}
	return out
}

func TestTablesAreRefusedWithPlaceAndRemedy(t *testing.T) {
	for text, want := range map[string]string{
		"a b tcp/80":                              "t:1: line has 3 fields; write FROM TO SERVICE allow|deny|reject, with commas and no spaces in lists",
		"a b tcp/0 allow":                         `t:1: "tcp/0" is no service; write tcp/PORT, udp/PORT or icmp`,
		"a b sctp/80 allow":                       `t:1: "sctp/80" is no service; write tcp/PORT, udp/PORT or icmp`,
		"a b icmp,tcp/80 drop":                    `t:1: "drop" is no verdict; write allow, deny (no answer) or reject (refused at once)`,
		"a [ tcp/80 allow":                        `t:1: "[" is neither a name nor a pattern; write a name, a group, or a pattern such as web-*`,
		"\n# nothing\n":                           "t: table expects nothing; write lines: FROM TO SERVICE allow|deny|reject",
		"group web\na b icmp deny":                `t:1: group "web" cannot be read; write group NAME = PLACE PLACE`,
		"group hosts = a\na b icmp deny":          `t:1: group "hosts" is there already; choose another name`,
		"a b tcp/1 allow\nb a icmp x\nc d e deny": "t:2: \"x\" is no verdict; write allow, deny (no answer) or reject (refused at once)\nt:3: \"e\" is no service; write tcp/PORT, udp/PORT or icmp",
		"group g = h\ngroup h = g\ng b icmp deny": `t:3: group "g" contains itself; take it out`,
		"nobody b icmp deny":                      `t:1: "nobody" fits nothing; there are a, b, a:c`,
		"* * icmp deny\na b icmp allow":           "t:2: line decides nothing: lines above it take all it fits; move it up or remove it",
	} {
		table, err := Parse("t", []byte(text))
		if err == nil {
			_, err = table.questions(places("a", "b", "a:c"))
		}
		if err == nil || err.Error() != want {
			t.Errorf("%q: %v\nwant %s", text, err, want)
		}
	}
}

// The first line that fits decides; nobody is asked to reach itself.
func TestFirstLineDecides(t *testing.T) {
	table, err := Parse("t", []byte(`
group front = web-* # two of them
front  db     tcp/5432       allow
hosts  db     tcp/5432,icmp  deny
*:*    web-1  udp/53         reject
`))
	if err != nil {
		t.Fatal(err)
	}
	list, err := table.questions(places("web-1", "web-2", "db", "db:box"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, q := range list {
		got = append(got, strings.Join([]string{q.from.Name, q.to.Name, q.service.String(), string(q.line.expected)}, " "))
	}
	want := []string{"web-1 db tcp/5432 allow", "web-2 db tcp/5432 allow", "web-1 db icmp deny", "web-2 db icmp deny", "db:box web-1 udp/53 reject"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("asked:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func FuzzParse(f *testing.F) {
	f.Add("group web = a b\nweb,* *:c tcp/80,icmp allow # yes\n")
	f.Fuzz(func(t *testing.T, text string) {
		table, err := Parse("t", []byte(text))
		if err != nil {
			return
		}
		table.questions(places("a", "b", "a:c")) //nolint:errcheck // must not panic
	})
}
