package model

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// ProbeKind is how a probe asks.
type ProbeKind string

// The kinds of probes.
const (
	ProbeHTTP ProbeKind = "http"
	ProbeTCP  ProbeKind = "tcp"
	ProbeDNS  ProbeKind = "dns"
	ProbeICMP ProbeKind = "icmp"
)

// ProbeKinds lists them.
var ProbeKinds = []ProbeKind{ProbeHTTP, ProbeTCP, ProbeDNS, ProbeICMP}

// maxTarget bounds a probe's target, in bytes.
const maxTarget = 2048

// CheckProbeTarget says what is wrong with what a kind of probe is to ask.
func CheckProbeTarget(kind ProbeKind, target string) error {
	if len(target) > maxTarget {
		return fmt.Errorf("is longer than %d bytes", maxTarget)
	}
	switch kind {
	case ProbeHTTP:
		if u, err := url.Parse(target); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || !isPort(u.Port()) && u.Port() != "" {
			return fmt.Errorf("%q: want http://HOST[:PORT]/PATH or https://…", target)
		}
	case ProbeTCP:
		if host, port, err := net.SplitHostPort(target); err != nil || host == "" || !isPort(port) {
			return fmt.Errorf("%q: want HOST:PORT", target)
		}
	case ProbeDNS:
		_, _, err := SplitProbeDNS(target)
		return err
	case ProbeICMP:
		if target == "" || strings.ContainsAny(target, "/ \t\n") {
			return fmt.Errorf("%q: want a HOST", target)
		}
	default:
		return fmt.Errorf("%q is none of http, tcp, dns, icmp", kind)
	}
	return nil
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

// SplitProbeDNS is the name of a target of dns, and the server with its port.
func SplitProbeDNS(target string) (name, server string, err error) {
	name, server, ok := strings.Cut(target, "@")
	if !ok || server == "" || name == "" {
		return "", "", fmt.Errorf("%q: want NAME@SERVER[:PORT]", target)
	}
	if bare := strings.TrimSuffix(name, "."); len(bare) > 253 {
		return "", "", errors.New("the name is longer than 253 bytes, which no name of DNS is")
	} else if bare != "" {
		for label := range strings.SplitSeq(bare, ".") {
			if label == "" || len(label) > 63 {
				return "", "", fmt.Errorf("%q is no name of DNS: its parts have 1 to 63 bytes", name)
			}
		}
	}
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return name, net.JoinHostPort(strings.Trim(server, "[]"), "53"), nil
	}
	if host == "" || !isPort(port) {
		return "", "", fmt.Errorf("%q: want NAME@SERVER[:PORT]", target)
	}
	return name, server, nil
}

// Statuses are those of HTTP that are good answers.
type Statuses []statusRange

type statusRange struct{ first, last int }

// ParseStatuses reads them: "200", "2xx", "200,301-308"; empty is all below 400.
func ParseStatuses(text string) (Statuses, error) {
	if text == "" {
		return Statuses{{100, 399}}, nil
	}
	var out Statuses
	for part := range strings.SplitSeq(text, ",") {
		r, ok := parseStatus(strings.TrimSpace(part))
		if !ok || len(out) == 32 {
			return nil, fmt.Errorf("%q: want statuses from 100 to 599, as 200, 2xx or 200,301-308", text)
		}
		out = append(out, r)
	}
	return out, nil
}

func parseStatus(text string) (r statusRange, ok bool) {
	if class, is := strings.CutSuffix(strings.ToLower(text), "xx"); is {
		n, err := strconv.Atoi(class)
		return statusRange{100 * n, 100*n + 99}, err == nil && n >= 1 && n <= 5
	}
	first, last, is := strings.Cut(text, "-")
	if !is {
		last = first
	}
	var err, lastErr error
	r.first, err = strconv.Atoi(first)
	r.last, lastErr = strconv.Atoi(last)
	return r, err == nil && lastErr == nil && r.first >= 100 && r.first <= r.last && r.last <= 599
}

// Has says whether a status is among them.
func (s Statuses) Has(status int) bool {
	for _, r := range s {
		if r.first <= status && status <= r.last {
			return true
		}
	}
	return false
}
