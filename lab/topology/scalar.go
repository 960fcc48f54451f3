package topology

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// Duration is a time.Duration written "20ms".
type Duration time.Duration

// Percent is a share between 0 and 1, written "1%" or 0.01.
type Percent float64

// Rate is in bits per second, written "100Mbit", "1Gbit", "64kbit".
type Rate uint64

// Addr is an IPv4 address.
type Addr struct{ netip.Addr }

// Prefix is an IPv4 subnet.
type Prefix struct{ netip.Prefix }

// Publish is a port of the host that leads to a container.
type Publish struct {
	HostPort, Port int
	Protocol       string // tcp or udp
}

// Forward is a port of a router's uplink that leads to a host behind it.
type Forward struct {
	OuterPort, Port int
	Host            string
	Protocol        string // tcp or udp
}

func scalar(node ast.Node, parse func(string) error) error {
	s, ok := node.(ast.ScalarNode)
	if !ok {
		return at(node, "want a single value")
	}
	text := s.GetToken().Value
	if err := parse(text); err != nil {
		return at(node, err.Error())
	}
	return nil
}

// UnmarshalYAML reads "20ms".
func (d *Duration) UnmarshalYAML(node ast.Node) error {
	return scalar(node, func(s string) error {
		v, err := time.ParseDuration(s)
		if err != nil || v < 0 || v > time.Minute {
			return fmt.Errorf("%q is no duration between 0 and 1m; write for example 20ms", s)
		}
		*d = Duration(v)
		return nil
	})
}

func (d Duration) String() string { return time.Duration(d).String() }

// ParsePercent reads "1%" or "0.01".
func ParsePercent(s string) (Percent, error) {
	text, percent := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v >= 0 && v <= 1) {
		return 0, fmt.Errorf("%q is no share between 0%% and 100%%; write for example 1%%", s)
	}
	return Percent(v), nil
}

// UnmarshalYAML reads "1%" or 0.01.
func (p *Percent) UnmarshalYAML(node ast.Node) error {
	return scalar(node, func(s string) (err error) {
		*p, err = ParsePercent(s)
		return err
	})
}

func (p Percent) String() string { return strconv.FormatFloat(float64(p)*100, 'g', 6, 64) + "%" }

var rateUnits = []struct {
	suffix string
	factor float64
}{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}

// ParseRate reads "100Mbit".
func ParseRate(s string) (Rate, error) {
	for _, u := range rateUnits {
		number, ok := strings.CutSuffix(strings.ToLower(s), u.suffix)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(number, 64)
		if err == nil && v*u.factor >= 1000 && v*u.factor <= 1e12 {
			return Rate(v * u.factor), nil
		}
		break
	}
	return 0, fmt.Errorf("%q is no rate between 1kbit and 1000Gbit; write for example 100Mbit", s)
}

// UnmarshalYAML reads "100Mbit".
func (r *Rate) UnmarshalYAML(node ast.Node) error {
	return scalar(node, func(s string) (err error) {
		*r, err = ParseRate(s)
		return err
	})
}

func (r Rate) String() string {
	for _, u := range rateUnits {
		if f := float64(r) / u.factor; f >= 1 {
			return strconv.FormatFloat(f, 'g', 6, 64) + map[string]string{"gbit": "Gbit", "mbit": "Mbit", "kbit": "kbit", "bit": "bit"}[u.suffix]
		}
	}
	return "0bit"
}

// UnmarshalYAML reads an IPv4 address.
func (a *Addr) UnmarshalYAML(node ast.Node) error {
	return scalar(node, func(s string) error {
		v, err := netip.ParseAddr(s)
		if err != nil || !v.Is4() {
			return fmt.Errorf("%q is no IPv4 address; write for example 10.1.0.5", s)
		}
		a.Addr = v
		return nil
	})
}

// UnmarshalYAML reads an IPv4 subnet.
func (p *Prefix) UnmarshalYAML(node ast.Node) error {
	return scalar(node, func(s string) error {
		v, err := netip.ParsePrefix(s)
		if err != nil || !v.Addr().Is4() || v.Bits() < 8 || v.Bits() > 30 {
			return fmt.Errorf("%q is no IPv4 subnet between /8 and /30; write for example 10.1.0.0/24", s)
		}
		if v != v.Masked() {
			return fmt.Errorf("%q has bits set beyond its length; write %s", s, v.Masked())
		}
		p.Prefix = v
		return nil
	})
}

func port(s string) (int, error) {
	v, err := strconv.Atoi(s)
	if err != nil || v < 1 || v > 65535 {
		return 0, fmt.Errorf("%q is no port between 1 and 65535", s)
	}
	return v, nil
}

func protocol(s string) (rest, proto string, err error) {
	rest, proto, found := strings.Cut(s, "/")
	if !found {
		proto = "tcp"
	}
	if proto != "tcp" && proto != "udp" {
		return "", "", fmt.Errorf("protocol %q is none of tcp, udp", proto)
	}
	return rest, proto, nil
}

// ParsePublish reads "8080:80" or "5353:53/udp".
func ParsePublish(s string) (Publish, error) {
	rest, proto, err := protocol(s)
	if err != nil {
		return Publish{}, err
	}
	outer, inner, found := strings.Cut(rest, ":")
	if !found {
		return Publish{}, fmt.Errorf("%q is no published port; write HOST-PORT:CONTAINER-PORT, for example 8080:80", s)
	}
	p := Publish{Protocol: proto}
	if p.HostPort, err = port(outer); err != nil {
		return Publish{}, err
	}
	if p.Port, err = port(inner); err != nil {
		return Publish{}, err
	}
	return p, nil
}

// UnmarshalYAML reads "8080:80".
func (p *Publish) UnmarshalYAML(node ast.Node) error {
	return scalar(node, func(s string) (err error) {
		*p, err = ParsePublish(s)
		return err
	})
}

// UnmarshalYAML reads "7443:controller:443".
func (f *Forward) UnmarshalYAML(node ast.Node) error {
	return scalar(node, func(s string) error {
		parts := strings.Split(s, ":")
		if len(parts) != 3 {
			return fmt.Errorf("%q is no forwarded port; write PORT:HOST:PORT, for example 7443:controller:443", s)
		}
		outer, proto, err := protocol(parts[0])
		if err != nil {
			return err
		}
		f.Protocol, f.Host = proto, parts[1]
		if f.OuterPort, err = port(outer); err != nil {
			return err
		}
		f.Port, err = port(parts[2])
		return err
	})
}

type plainAttachment Attachment

// UnmarshalYAML reads the name of a switch, or an object.
func (a *Attachment) UnmarshalYAML(node ast.Node) error {
	if s, ok := node.(*ast.StringNode); ok {
		a.Switch = s.Value
		return nil
	}
	if _, ok := node.(ast.MapNode); !ok {
		return at(node, "want the name of a switch, or {switch: NAME, ...}")
	}
	return yaml.NodeToValue(node, (*plainAttachment)(a), yaml.Strict())
}

// UnmarshalYAML reads one attachment or a list.
func (a *Attachments) UnmarshalYAML(node ast.Node) error {
	seq, ok := node.(*ast.SequenceNode)
	if !ok {
		*a = make(Attachments, 1)
		return (*a)[0].UnmarshalYAML(node)
	}
	*a = make(Attachments, len(seq.Values))
	for i, v := range seq.Values {
		if err := (*a)[i].UnmarshalYAML(v); err != nil {
			return err
		}
	}
	return nil
}

// Check refuses what no link can do.
func (i Impairment) Check() error {
	switch {
	case i.Jitter > i.Delay:
		return fmt.Errorf("jitter %s is more than the delay of %s; a frame cannot arrive before it is sent", i.Jitter, i.Delay)
	case i.Reorder > 0 && i.Delay == 0:
		return fmt.Errorf("reordering needs a delay to overtake; add for example delay: 10ms")
	}
	return nil
}

// String prints what is not perfect, or "".
func (i Impairment) String() string {
	var parts []string
	add := func(on bool, name string, value fmt.Stringer) {
		if on {
			parts = append(parts, name+" "+value.String())
		}
	}
	add(i.Rate != 0, "rate", i.Rate)
	add(i.Delay != 0, "delay", i.Delay)
	add(i.Jitter != 0, "jitter", i.Jitter)
	add(i.Loss != 0, "loss", i.Loss)
	add(i.Reorder != 0, "reorder", i.Reorder)
	return strings.Join(parts, " ")
}
