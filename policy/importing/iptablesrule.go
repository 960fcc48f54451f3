package importing

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"weft/model"
)

// ruleParser reads the words of one rule.
type ruleParser struct {
	save     *save
	words    []string
	rule     saveRule
	services services
	protocol uint8
	single   bool // protocol is one, not negated
}

// harmless are matches that say nothing without options this parser knows.
var harmless = []string{"tcp", "udp", "sctp", "icmp", "icmp6", "ipv6-icmp", "multiport", "conntrack", "state", "comment"}

func (p *ruleParser) fault(field, message string, args ...any) {
	p.save.run.fault(p.save.file, p.rule.line, field, message, args...)
}

func (p *ruleParser) parse() {
	for len(p.words) > 0 {
		not := p.take("!")
		if len(p.words) == 0 {
			p.fault("!", "stands at the end; want a condition after it")
			return
		}
		option := p.words[0]
		p.words = p.words[1:]
		if !strings.HasPrefix(option, "-") {
			p.fault(option, "is no option; want one that begins with '-', as iptables-save writes it")
			return
		}
		p.option(option, not)
	}
	p.rule.services = p.services
}

func (p *ruleParser) take(word string) bool {
	if len(p.words) > 0 && p.words[0] == word {
		p.words = p.words[1:]
		return true
	}
	return false
}

// argument returns the word after an option; old rules have the "!" before it.
func (p *ruleParser) argument(option string, not *bool) string {
	if p.take("!") {
		*not = !*not
	}
	if len(p.words) == 0 {
		p.fault(option, "has no value")
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

// unknown keeps a condition as it is written, with its values.
func (p *ruleParser) unknown(option string, not bool) {
	text := option
	if not {
		text = "! " + text
	}
	for len(p.words) > 0 && p.words[0] != "!" && !strings.HasPrefix(p.words[0], "-") {
		text += " " + p.words[0]
		p.words = p.words[1:]
	}
	p.rule.unsaid = append(p.rule.unsaid, short(text))
}

func (p *ruleParser) option(option string, not bool) {
	switch option {
	case "-s", "--source", "--src":
		p.address(option, not, &p.rule.source)
	case "-d", "--destination", "--dst":
		p.address(option, not, &p.rule.destination)
	case "-i", "--in-interface":
		p.device(option, not, &p.rule.in)
	case "-o", "--out-interface":
		p.device(option, not, &p.rule.out)
	case "-p", "--protocol":
		p.setProtocol(p.argument(option, &not), not)
	case "--dport", "--destination-port", "--dports", "--destination-ports":
		p.ports(option, p.argument(option, &not), not)
	case "--sport", "--source-port", "--sports", "--source-ports":
		if w := p.argument(option, &not); w != "0:65535" || not {
			p.rule.unsaid = append(p.rule.unsaid, option+" "+short(w))
		}
	case "--icmp-type", "--icmpv6-type":
		p.icmp(option, p.argument(option, &not), not)
	case "--ctstate", "--state":
		p.states(p.argument(option, &not), not)
	case "--syn":
		p.firstIs(!not)
	case "--tcp-flags":
		mask, want := p.argument(option, &not), p.argument(option, &not)
		p.firstIs(synMatches(mask, want) != not)
	case "-m", "--match":
		if m := p.argument(option, &not); !slices.Contains(harmless, m) {
			p.rule.unsaid = append(p.rule.unsaid, "-m "+short(m))
		}
	case "--comment":
		p.argument(option, &not)
	case "-j", "--jump", "-g", "--goto":
		p.rule.target = p.argument(option, &not)
		p.rule.jumps = option == "-g" || option == "--goto"
		p.rule.args, p.words = p.words, nil
	case "-4", "--ipv4", "-6", "--ipv6":
	case "-c", "--set-counters":
		p.argument(option, &not)
		p.argument(option, &not)
	default:
		p.unknown(option, not)
	}
}

// firstIs says whether a TCP connection's first packet, which has SYN alone, is
// one the rule matches.
func (p *ruleParser) firstIs(matches bool) { p.rule.never = p.rule.never || !matches }

func synMatches(mask, want string) bool {
	has := func(list, flag string) bool { return list == "ALL" || slices.Contains(strings.Split(list, ","), flag) }
	if has(mask, "SYN") != has(want, "SYN") {
		return false
	}
	for _, flag := range []string{"ACK", "FIN", "RST", "URG", "PSH"} {
		if has(mask, flag) && has(want, flag) {
			return false
		}
	}
	return true
}

func (p *ruleParser) address(option string, not bool, side *addresses) {
	text := p.argument(option, &not)
	var set addresses
	for one := range strings.SplitSeq(text, ",") {
		prefix, err := parsePrefix(maskToLength(one))
		if err != nil {
			p.fault(option, "%v", err)
			return
		}
		if prefix.Addr().Is4() != p.save.family[0].first.Is4() {
			p.fault(option, "%s is of the other family than the file; put the rules of iptables-save and ip6tables-save into a file each", prefix)
			return
		}
		set = set.or(addressesOf(prefix))
	}
	if not {
		set = p.save.family.without(set)
	}
	*side = side.and(set)
}

// maskToLength writes "10.0.0.0/255.0.0.0" as "10.0.0.0/8"; other text stays.
func maskToLength(text string) string {
	addr, mask, ok := strings.Cut(text, "/")
	m, err := parsePrefix(mask)
	if !ok || err != nil || !m.IsSingleIP() || !m.Addr().Is4() {
		return text
	}
	b := m.Addr().As4()
	ones := bits.LeadingZeros32(^binary.BigEndian.Uint32(b[:]))
	if bits.OnesCount32(binary.BigEndian.Uint32(b[:])) != ones {
		return text // a mask with holes is no range
	}
	return fmt.Sprintf("%s/%d", addr, ones)
}

func (p *ruleParser) device(option string, not bool, side *loopback) {
	switch name := p.argument(option, &not); {
	case name == "+" && !not:
	case name == "lo" && !not:
		*side = onlyLoopback
	case name == "lo":
		*side = notLoopback
	default:
		text := option + " " + short(name)
		if not {
			text = "! " + text
		}
		p.rule.unsaid = append(p.rule.unsaid, text)
	}
}

func (p *ruleParser) setProtocol(name string, not bool) {
	number, known := protocolNumbers[strings.ToLower(name)]
	if n, err := strconv.ParseUint(name, 10, 8); err == nil {
		number, known = uint8(n), true
	}
	switch {
	case name == "all" || name == "0":
		if not {
			p.services = services{}
		}
		return
	case !known:
		p.rule.unsaid = append(p.rule.unsaid, "-p "+short(name))
		return
	}
	s := serviceOf(number, everyKey...)
	if not {
		p.services = p.services.without(s)
		return
	}
	p.services, p.protocol, p.single = p.services.and(s), number, true
}

func (p *ruleParser) ports(option, list string, not bool) {
	if !p.single || !model.HasPorts(p.protocol) {
		if p.single && (p.protocol == 33 || p.protocol == 136) {
			p.rule.unsaid = append(p.rule.unsaid, option+" "+short(list))
			return
		}
		p.fault(option, "has no -p tcp, udp or sctp before it")
		return
	}
	var ranges []keys
	for one := range strings.SplitSeq(list, ",") {
		low, high, ranged := strings.Cut(one, ":")
		if !ranged {
			high = low
		}
		if low == "" {
			low = "0"
		}
		if high == "" {
			high = "65535"
		}
		a, err1 := strconv.ParseUint(low, 10, 16)
		b, err2 := strconv.ParseUint(high, 10, 16)
		if err1 != nil || err2 != nil || b < a {
			p.fault(option, `%q is no port; write numbers, as iptables-save does: "80", "1024:65535" or "80,443"`, short(one))
			return
		}
		ranges = append(ranges, keys{uint16(a), uint16(b)})
	}
	p.limit(serviceOf(p.protocol, ranges...), not)
}

func (p *ruleParser) limit(s services, not bool) {
	if not {
		p.services = p.services.without(s)
	} else {
		p.services = p.services.and(s)
	}
}

func (p *ruleParser) icmp(option, text string, not bool) {
	names, protocol := icmpNames, uint8(1)
	if option == "--icmpv6-type" {
		names, protocol = icmp6Names, 58
	}
	if text == "any" || text == "255" && protocol == 1 {
		p.limit(serviceOf(protocol, everyKey...), not)
		return
	}
	kind, code, hasCode := strings.Cut(text, "/")
	t, err := strconv.ParseUint(kind, 10, 8)
	c, err2 := strconv.ParseUint(code, 10, 8)
	if n, ok := names[kind]; ok {
		t, err = uint64(n), nil
	}
	if err != nil || hasCode && err2 != nil {
		p.rule.unsaid = append(p.rule.unsaid, option+" "+short(text))
		return
	}
	k := keys{uint16(t << 8), uint16(t<<8 | 255)}
	if hasCode {
		k = keys{uint16(t<<8 | c), uint16(t<<8 | c)}
	}
	p.limit(serviceOf(protocol, k), not)
}

// states narrows the rule to packets in some state of their connection. The
// packet that weft judges is a connection's first: NEW.
func (p *ruleParser) states(list string, not bool) {
	states := strings.Split(list, ",")
	if not {
		var rest []string
		for _, s := range []string{"NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"} {
			if !slices.Contains(states, s) {
				rest = append(rest, s)
			}
		}
		states = rest
	}
	p.rule.state = states
	p.firstIs(slices.Contains(states, "NEW"))
}
