package model

import (
	"fmt"
	"strconv"
)

// protocols are those that have a name here, by IANA number.
var protocols = map[string]uint8{"ICMP": 1, "TCP": 6, "UDP": 17, "ICMPv6": 58, "SCTP": 132}

// ProtocolNumber returns the IANA number of a port's protocol, and whether what
// is written names one.
func (p *PolicyPort) ProtocolNumber() (uint8, bool) {
	if n, ok := protocols[p.Protocol]; ok {
		return n, true
	}
	n, err := strconv.ParseUint(p.Protocol, 10, 8)
	return uint8(n), err == nil && ProtocolName(uint8(n)) == p.Protocol
}

// ProtocolName names a protocol as policies do: "TCP", or "47" for the unnamed.
func ProtocolName(number uint8) string {
	for name, n := range protocols {
		if n == number {
			return name
		}
	}
	return strconv.Itoa(int(number))
}

// HasPorts says whether a protocol has ports that rules can name.
func HasPorts(protocol uint8) bool { return protocol == 6 || protocol == 17 || protocol == 132 }

// IsICMP says whether a protocol is ICMP or ICMPv6.
func IsICMP(protocol uint8) bool { return protocol == 1 || protocol == 58 }

// Range returns the first and last value the port matches: destination ports,
// or type<<8|code where the protocol is ICMP or ICMPv6. Valid ports only.
func (p *PolicyPort) Range() (first, last uint16) {
	switch {
	case p.ICMP != nil && p.ICMP.Type != nil:
		t := uint16(*p.ICMP.Type) << 8
		if p.ICMP.Code != nil {
			return t | uint16(*p.ICMP.Code), t | uint16(*p.ICMP.Code)
		}
		return t, t | 0xff
	case p.Port != nil && p.EndPort != nil:
		return uint16(*p.Port), uint16(*p.EndPort)
	case p.Port != nil:
		return uint16(*p.Port), uint16(*p.Port)
	}
	return 0, 65535
}

func checkPorts(e *FieldErrors, field string, ports []PolicyPort) {
	if ports != nil && len(ports) == 0 {
		e.add(field, fmt.Errorf("is an empty list; leave it out to match every protocol and port"))
	}
	if len(ports) > MaxRulePorts {
		e.add(field, fmt.Errorf("has %d ports; %d at most, use ranges with endPort", len(ports), MaxRulePorts))
		return
	}
	for i := range ports {
		ports[i].check(e, fmt.Sprintf("%s[%d]", field, i))
	}
}

func (p *PolicyPort) check(e *FieldErrors, at string) {
	number, known := p.ProtocolNumber()
	switch {
	case p.Protocol == "":
		e.add(at+".protocol", fmt.Errorf(`is missing; write TCP, UDP, SCTP, ICMP, ICMPv6 or a number like "47"`))
		return
	case !known:
		hint := suggest(p.Protocol, []string{"TCP", "UDP", "SCTP", "ICMP", "ICMPv6"})
		if n, err := strconv.ParseUint(p.Protocol, 10, 8); err == nil {
			hint = fmt.Sprintf(" (write %q)", ProtocolName(uint8(n)))
		}
		e.add(at+".protocol", fmt.Errorf(`%q is none of TCP, UDP, SCTP, ICMP, ICMPv6 or a number from "0" to "255"%s`, p.Protocol, hint))
		return
	}
	if p.Port != nil || p.EndPort != nil {
		p.checkRange(e, at, number)
	}
	if p.ICMP == nil {
		return
	}
	if !IsICMP(number) {
		e.add(at+".icmp", fmt.Errorf("%s has no ICMP types; use protocol ICMP or ICMPv6", p.Protocol))
		return
	}
	switch {
	case p.ICMP.Type == nil:
		e.add(at+".icmp.type", fmt.Errorf("is missing; leave icmp out for every type"))
	case *p.ICMP.Type < 0 || *p.ICMP.Type > 255:
		e.add(at+".icmp.type", fmt.Errorf("%d is outside 0 to 255", *p.ICMP.Type))
	}
	if c := p.ICMP.Code; c != nil && (*c < 0 || *c > 255) {
		e.add(at+".icmp.code", fmt.Errorf("%d is outside 0 to 255; leave it out for every code", *c))
	}
}

func (p *PolicyPort) checkRange(e *FieldErrors, at string, number uint8) {
	if !HasPorts(number) {
		e.add(at+".port", fmt.Errorf("%s has no ports; leave port and endPort out", p.Protocol))
		return
	}
	valid := true
	for _, n := range []struct {
		name  string
		value *int
	}{{".port", p.Port}, {".endPort", p.EndPort}} {
		if n.value != nil && (*n.value < 1 || *n.value > 65535) {
			valid = false
			e.add(at+n.name, fmt.Errorf("%d is outside 1 to 65535; leave it out for every port", *n.value))
		}
	}
	switch {
	case p.Port == nil:
		e.add(at+".endPort", fmt.Errorf("needs port, the first of the range"))
	case valid && p.EndPort != nil && *p.EndPort < *p.Port:
		e.add(at+".endPort", fmt.Errorf("%d is below port %d; write port: %d, endPort: %d", *p.EndPort, *p.Port, *p.EndPort, *p.Port))
	}
}
