package reach

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"weft/lab"
)

// Verdict is what becomes of a packet, as its sender sees it.
type Verdict string

// The verdicts.
const (
	Allow  Verdict = "allow"
	Deny   Verdict = "deny"   // no answer
	Reject Verdict = "reject" // refused at once
)

var verdicts = []Verdict{Allow, Deny, Reject}

// Service is a protocol and, of TCP and UDP, a port. ICMP stands for an echo
// request.
type Service struct {
	Protocol string // tcp, udp or icmp
	Port     uint16
}

func (s Service) String() string {
	if s.Protocol == "icmp" {
		return s.Protocol
	}
	return fmt.Sprintf("%s/%d", s.Protocol, s.Port)
}

// parseService reads tcp/80, udp/53 or icmp.
func parseService(text string) (Service, error) {
	if text == "icmp" {
		return Service{Protocol: "icmp"}, nil
	}
	protocol, port, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || protocol != "tcp" && protocol != "udp" {
		return Service{}, fmt.Errorf("%q is no service; write tcp/PORT, udp/PORT or icmp", text)
	}
	return Service{protocol, uint16(n)}, nil
}

// Table says who is to reach whom.
type Table struct {
	file   string
	groups map[string][]string
	lines  []line
}

// line is one expectation.
type line struct {
	number   int
	from, to []string
	services []Service
	expected Verdict
}

// Errors are all faults of a table, in its order.
type Errors []error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// maxTable bounds what Parse reads, in bytes.
const maxTable = 1 << 20

// Parse reads a table; file stands for it in errors, which are of type Errors.
// A line is
//
//	FROM  TO  SERVICE  allow|deny|reject
//	group NAME = NAME...
//
// FROM, TO and SERVICE may be lists with commas. FROM and TO are places, groups,
// or patterns as in file names (web-*, *:api); hosts, containers and units are
// groups too. The first line that fits a pair and a service decides; # begins a
// comment.
func Parse(file string, data []byte) (*Table, error) {
	t := &Table{file: file, groups: map[string][]string{}}
	if len(data) > maxTable {
		return nil, Errors{fmt.Errorf("%s: table is %d bytes long; %d at most", file, len(data), maxTable)}
	}
	var errs Errors
	number := 0
	for text := range strings.Lines(string(data)) {
		number++
		text, _, _ = strings.Cut(text, "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		if err := t.parseLine(number, fields); err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", file, number, err))
		}
	}
	if len(errs) == 0 && len(t.lines) == 0 {
		errs = append(errs, fmt.Errorf("%s: table expects nothing; write lines: FROM TO SERVICE allow|deny|reject", file))
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return t, nil
}

func (t *Table) parseLine(number int, fields []string) error {
	if fields[0] == "group" {
		return t.parseGroup(fields[1:])
	}
	if len(fields) != 4 {
		return fmt.Errorf("line has %d fields; write FROM TO SERVICE allow|deny|reject, with commas and no spaces in lists", len(fields))
	}
	l := line{number: number, from: strings.Split(fields[0], ","), to: strings.Split(fields[1], ","), expected: Verdict(fields[3])}
	for _, name := range append(slices.Clone(l.from), l.to...) {
		if _, err := path.Match(name, ""); err != nil || name == "" {
			return fmt.Errorf("%q is neither a name nor a pattern; write a name, a group, or a pattern such as web-*", name)
		}
	}
	for _, text := range strings.Split(fields[2], ",") {
		s, err := parseService(text)
		if err != nil {
			return err
		}
		l.services = append(l.services, s)
	}
	if !slices.Contains(verdicts, l.expected) {
		return fmt.Errorf("%q is no verdict; write allow, deny (no answer) or reject (refused at once)", fields[3])
	}
	t.lines = append(t.lines, l)
	return nil
}

func (t *Table) parseGroup(fields []string) error {
	text := strings.Join(fields, " ")
	name, members, ok := strings.Cut(text, "=")
	name = strings.TrimSpace(name)
	list := strings.FieldsFunc(members, func(r rune) bool { return r == ' ' || r == ',' })
	switch {
	case !ok || len(list) == 0 || name == "" || strings.ContainsAny(name, " ,*?[:\\"):
		return fmt.Errorf("group %q cannot be read; write group NAME = PLACE PLACE", text)
	case t.groups[name] != nil || builtin(name) != "":
		return fmt.Errorf("group %q is there already; choose another name", name)
	}
	t.groups[name] = list
	return nil
}

// builtin is the kind of places that a group of the language stands for.
func builtin(name string) lab.PlaceKind {
	for _, k := range []lab.PlaceKind{lab.PlaceHost, lab.PlaceContainer, lab.PlaceUnit} {
		if name == string(k)+"s" {
			return k
		}
	}
	return ""
}

// fitting returns the places that names, groups and patterns stand for, in the
// order of all.
func (t *Table) fitting(names []string, all []*lab.Place, within ...string) ([]*lab.Place, error) {
	found := map[*lab.Place]bool{}
	for _, name := range names {
		some, err := t.fittingOne(name, all, within)
		if err != nil {
			return nil, err
		}
		for _, p := range some {
			found[p] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(p *lab.Place) bool { return !found[p] }), nil
}

func (t *Table) fittingOne(name string, all []*lab.Place, within []string) ([]*lab.Place, error) {
	if slices.Contains(within, name) {
		return nil, fmt.Errorf("group %q contains itself; take it out", name)
	}
	if members := t.groups[name]; members != nil {
		return t.fitting(members, all, append(slices.Clone(within), name)...)
	}
	kind := builtin(name)
	var out []*lab.Place
	for _, p := range all {
		if matched, _ := path.Match(name, p.Name); matched || p.Kind == kind {
			out = append(out, p)
		}
	}
	if len(out) == 0 && kind == "" {
		return nil, fmt.Errorf("%q fits nothing; there are %s", name, some(all))
	}
	return out, nil
}

// some names places, not more than a line of them.
func some(all []*lab.Place) string {
	var names []string
	for _, p := range all {
		names = append(names, p.Name)
	}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(strings.Count(a, ":"), strings.Count(b, ":")) })
	if len(names) > 12 {
		names = append(names[:12], "...")
	}
	return strings.Join(names, ", ")
}
