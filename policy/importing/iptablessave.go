package importing

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
)

// save is one file of iptables-save.
type save struct {
	run    *run
	file   string
	family addresses // all of the family it is about
	tables []table
	chains map[string]*chain // of the table filter
}

type table struct {
	name  string
	line  int
	stops bool // holds a rule or a policy that stops packets
}

type chain struct {
	name, policy string // policy is "-" for a chain of the user
	line         int
	rules        []saveRule
}

// saveRule is one -A line.
type saveRule struct {
	line int
	// What it says of both ends; which of them is the peer depends on the chain
	// it is reached from.
	source, destination addresses
	in, out             loopback
	services            services
	never               bool // matches no first packet of a connection
	state               []string
	unsaid              []string // conditions that weft does not know, as written
	target              string
	jumps               bool // -g
	args                []string
}

var chainLine = regexp.MustCompile(`^:(\S+) (ACCEPT|DROP|-)( \[\d+:\d+\])?$`)

// counters before a rule, as iptables-save -c writes them.
var counters = regexp.MustCompile(`^\[\d+:\d+\] `)

func (r *run) parseSave(f File) *save {
	s := &save{run: r, file: f.Name, chains: map[string]*chain{}, family: r.familyOf(f)}
	if s.family == nil {
		return nil
	}
	line, current := 0, -1
	for raw := range bytes.Lines(f.Data) {
		line++
		text := counters.ReplaceAllString(strings.TrimSpace(string(raw)), "")
		switch {
		case text == "" || text[0] == '#':
		case text[0] == '*':
			s.tables = append(s.tables, table{name: text[1:], line: line})
			current = len(s.tables) - 1
			for _, t := range s.tables[:current] {
				if t.name == "filter" && text == "*filter" {
					r.fault(f.Name, line, "*filter", "is in the file twice; keep one of them")
				}
			}
		case text == "COMMIT":
			current = -1
		case current < 0:
			r.fault(f.Name, line, "", "%q stands in no table; want *filter before it, as iptables-save writes it", short(text))
		case s.tables[current].name != "filter":
			s.tables[current].stops = s.tables[current].stops || strings.Contains(text, "-j DROP") || strings.Contains(text, "-j REJECT") || strings.HasPrefix(text, ":") && strings.Contains(text, " DROP")
		case text[0] == ':':
			m := chainLine.FindStringSubmatch(text)
			if m == nil {
				r.fault(f.Name, line, "", "%q is no chain; want :NAME and ACCEPT, DROP or -, as iptables-save writes it", short(text))
				continue
			}
			if builtin := slices.Contains([]string{"INPUT", "OUTPUT", "FORWARD"}, m[1]); builtin == (m[2] == "-") {
				r.fault(f.Name, line, ":"+m[1], "has the policy %s; INPUT, OUTPUT and FORWARD have ACCEPT or DROP, other chains -", m[2])
			}
			s.chains[m[1]] = &chain{name: m[1], policy: m[2], line: line}
		default:
			s.addRule(line, text)
		}
		if len(r.faults) == maxFaults {
			return nil
		}
	}
	if len(s.chains) == 0 && len(r.faults) == 0 {
		r.fault(f.Name, max(line, 1), "", "has no table filter with chains; write it with iptables-save")
	}
	return s
}

// seen returns the packets a rule is about as seen from the machine, and the
// conditions that a policy does not know.
func (s *save) seen(rule *saveRule, egress bool) (box, []string) {
	peer, own, device, other, ownOption := rule.source, rule.destination, rule.in, rule.out, "-d"
	if egress {
		peer, own, device, other, ownOption = rule.destination, rule.source, rule.out, rule.in, "-s"
	}
	unsaid := rule.unsaid
	if len(s.family.without(own)) > 0 {
		unsaid = append(slices.Clone(unsaid), ownOption+" (the machine's own address)")
	}
	if other != anyDevice {
		unsaid = append(slices.Clone(unsaid), "the device of the other direction")
	}
	return box{peer, rule.services, device}, unsaid
}

func short(text string) string {
	if len(text) > 100 {
		text = text[:100] + "…"
	}
	return strings.ToValidUTF8(text, "?")
}

func (s *save) addRule(line int, text string) {
	words, ok := splitWords(text)
	if !ok {
		s.run.fault(s.file, line, "", "has a quote that is not closed")
		return
	}
	if len(words) < 2 || words[0] != "-A" && words[0] != "--append" {
		s.run.fault(s.file, line, "", "%q is no rule; want -A CHAIN, as iptables-save writes it", short(text))
		return
	}
	c := s.chains[words[1]]
	if c == nil {
		s.run.fault(s.file, line, "-A", "the chain %q is not declared above; want a line :%s", short(words[1]), short(words[1]))
		return
	}
	p := ruleParser{save: s, words: words[2:], rule: saveRule{line: line, source: s.family, destination: s.family}, services: allServices()}
	p.parse()
	c.rules = append(c.rules, p.rule)
	if s.run.rules++; s.run.rules > maxRules {
		s.run.fault(s.file, line, "", "is one rule too many: %d at most", maxRules)
	}
}

// familyOf says whether a file is about IPv4 or IPv6: by its first line, by an
// address in it, by its name.
func (r *run) familyOf(f File) addresses {
	first, _, _ := bytes.Cut(f.Data, []byte("\n"))
	switch {
	case bytes.Contains(first, []byte("ip6tables-save")):
		return allIPv6
	case bytes.Contains(first, []byte("iptables-save")):
		return allIPv4
	}
	var seen []addresses
	for line := range bytes.Lines(f.Data) {
		fields := strings.Fields(string(line))
		for i, w := range fields {
			if i == 0 || !slices.Contains([]string{"-s", "-d", "--source", "--destination"}, fields[i-1]) {
				continue
			}
			if p, err := parsePrefix(w); err == nil && p.Addr().Is6() {
				seen = append(seen, allIPv6)
			} else if err == nil {
				seen = append(seen, allIPv4)
			}
		}
		if len(seen) > 0 {
			return seen[0]
		}
	}
	if name := strings.ToLower(f.Name); strings.Contains(name, "v6") || strings.Contains(name, "ip6") {
		return allIPv6
	}
	return allIPv4
}

// splitWords cuts a line at spaces; words may be in double quotes.
func splitWords(text string) ([]string, bool) {
	var out []string
	var word strings.Builder
	quoted, any := false, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text):
			i++
			word.WriteByte(text[i])
			any = true
		case c == '"':
			quoted, any = !quoted, true
		case (c == ' ' || c == '\t') && !quoted:
			if any {
				out = append(out, word.String())
			}
			word.Reset()
			any = false
		default:
			word.WriteByte(c)
			any = true
		}
	}
	if any {
		out = append(out, word.String())
	}
	return out, !quoted
}
