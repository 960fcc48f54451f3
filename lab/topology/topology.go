// Package topology reads the file that describes a lab and plans it: which
// nodes there are, which addresses, gateways, routes and names each gets. It
// does no I/O beyond reading the file; the same plan can be built from
// namespaces or from machines.
//
// The file says little and the planner fills in the rest: subnets of switches,
// addresses, gateways, routes across routers, and which names a host can
// resolve (those it can reach). IPv4 only.
package topology

import "net/netip"

// APIVersion and Kind are what a topology file must say of itself.
const (
	APIVersion = "weft/v1"
	Kind       = "Topology"
)

// Topology is the file.
type Topology struct {
	APIVersion string   `yaml:"apiVersion" json:"apiVersion"`
	Kind       string   `yaml:"kind" json:"kind"`
	Metadata   Metadata `yaml:"metadata" json:"metadata"`
	Spec       Spec     `yaml:"spec" json:"spec"`
}

// Metadata names the topology.
type Metadata struct {
	Name   string            `yaml:"name" json:"name"`
	Labels map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
}

// Spec is what there is. Names of hosts and routers share one space.
type Spec struct {
	Switches []Switch `yaml:"switches" json:"switches"`
	Routers  []Router `yaml:"routers,omitempty" json:"routers,omitempty"`
	Hosts    []Host   `yaml:"hosts,omitempty" json:"hosts,omitempty"`
}

// Switch is one broadcast domain and its subnet.
type Switch struct {
	Name string `yaml:"name" json:"name"`
	// Subnet; 10.100.0.0/16 and following where not given.
	Subnet Prefix `yaml:"subnet,omitempty" json:"subnet,omitzero"`
	// MTU of everything attached; 1500 unless given.
	MTU int `yaml:"mtu,omitempty" json:"mtu,omitempty"`
	// Cloud is inherited by every host whose first attachment is here, so that
	// a provider's network says region and zone once.
	Cloud *Cloud `yaml:"metadata,omitempty" json:"metadata,omitempty"`
}

// Router forwards between switches. With an uplink it is the gateway of its
// downlinks; without one it joins its downlinks as equals.
type Router struct {
	Name      string      `yaml:"name" json:"name"`
	Uplink    *Attachment `yaml:"uplink,omitempty" json:"uplink,omitempty"`
	Downlinks Attachments `yaml:"downlinks" json:"downlinks"`
	// NAT of what leaves by the uplink; none unless given.
	NAT      NAT       `yaml:"nat,omitempty" json:"nat,omitempty"`
	Firewall *Firewall `yaml:"firewall,omitempty" json:"firewall,omitempty"`
	// Forward opens ports of the uplink address: "7443:controller:443" or
	// "7443/udp:ids:7443".
	Forward []Forward `yaml:"forward,omitempty" json:"forward,omitempty"`
}

// NAT is a flavour of address translation, in the words of RFC 4787.
type NAT string

// The flavours of NAT.
const (
	// NATNone routes without translation.
	NATNone NAT = "none"
	// NATPortRestricted is an ordinary home or office router: the mapping does
	// not depend on the endpoint, the filter does on address and port.
	NATPortRestricted NAT = "port-restricted"
	// NATHard draws a new random port for each endpoint ("symmetric"): no hole
	// can be punched through two of them.
	NATHard NAT = "hard"
	// NATOneToOne gives every host behind it an address of its own outside, as
	// clouds do. A single host gets one through Host.Public.
	NATOneToOne NAT = "one-to-one"
)

// Firewall limits what crosses a router from its downlinks to its uplink; of a
// router without an uplink, whatever crosses it. Replies always pass.
type Firewall struct {
	// UDP is "allowed" (default) or "blocked".
	UDP string `yaml:"udp,omitempty" json:"udp,omitempty"`
	// ICMP is "allowed" (default) or "blocked".
	ICMP string `yaml:"icmp,omitempty" json:"icmp,omitempty"`
	// OnlyTCP are the only destination ports that TCP may use, where given.
	OnlyTCP []int `yaml:"onlyTCP,omitempty" json:"onlyTCP,omitempty"`
	// Inbound is "allowed" or "blocked": connections from the uplink. Allowed
	// unless the router translates addresses.
	Inbound string `yaml:"inbound,omitempty" json:"inbound,omitempty"`
}

// Host is a machine: a namespace with its own cgroup, state and names.
type Host struct {
	Name   string            `yaml:"name" json:"name"`
	Attach Attachments       `yaml:"attach" json:"attach"`
	Labels map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
	// Gateway overrides the router of the first switch.
	Gateway Addr `yaml:"gateway,omitempty" json:"gateway,omitzero"`
	// Names are more names under which others resolve this host.
	Names []string `yaml:"names,omitempty" json:"names,omitempty"`
	// DNS are the resolvers in its resolv.conf.
	DNS []Addr `yaml:"dns,omitempty" json:"dns,omitempty"`
	// Public gives the host an address of its own on the uplink of its gateway:
	// "auto" or an address.
	Public string `yaml:"public,omitempty" json:"public,omitempty"`
	// Later leaves the host out until it is started on purpose. Its addresses
	// and names are planned from the beginning.
	Later      bool        `yaml:"later,omitempty" json:"later,omitempty"`
	Containers []Container `yaml:"containers,omitempty" json:"containers,omitempty"`
	Units      []Unit      `yaml:"units,omitempty" json:"units,omitempty"`
	Cloud      *Cloud      `yaml:"metadata,omitempty" json:"metadata,omitempty"`
}

// Container has a namespace and a cgroup of its own behind its host's bridge.
type Container struct {
	Name   string            `yaml:"name" json:"name"`
	Labels map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
	// Address in 172.17.0.0/16; the next free one unless given.
	Address Addr `yaml:"address,omitempty" json:"address,omitzero"`
	// Publish are ports of the host, "8080:80" or "5353:53/udp".
	Publish []Publish `yaml:"publish,omitempty" json:"publish,omitempty"`
}

// Unit is a cgroup on the host's own network, as a systemd service is.
type Unit struct {
	Name   string            `yaml:"name" json:"name"`
	Labels map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
}

// Cloud is what a host's metadata service answers with. What is left out is
// made up from the host's name, the same at every run.
type Cloud struct {
	// Provider is aws, gcp or azure.
	Provider     string            `yaml:"provider,omitempty" json:"provider,omitempty"`
	Region       string            `yaml:"region,omitempty" json:"region,omitempty"`
	Zone         string            `yaml:"zone,omitempty" json:"zone,omitempty"`
	Account      string            `yaml:"account,omitempty" json:"account,omitempty"`
	Network      string            `yaml:"network,omitempty" json:"network,omitempty"`
	InstanceID   string            `yaml:"instanceID,omitempty" json:"instanceID,omitempty"`
	InstanceType string            `yaml:"instanceType,omitempty" json:"instanceType,omitempty"`
	Image        string            `yaml:"image,omitempty" json:"image,omitempty"`
	Tags         map[string]string `yaml:"tags,omitempty" json:"tags,omitempty"`
}

// merged returns c over base; either may be nil.
func (c *Cloud) merged(base *Cloud) *Cloud {
	if c == nil {
		return base
	}
	if base == nil {
		return c
	}
	out := *c
	fill := func(field *string, from string) {
		if *field == "" {
			*field = from
		}
	}
	fill(&out.Provider, base.Provider)
	fill(&out.Region, base.Region)
	fill(&out.Zone, base.Zone)
	fill(&out.Account, base.Account)
	fill(&out.Network, base.Network)
	fill(&out.InstanceType, base.InstanceType)
	fill(&out.Image, base.Image)
	out.Tags = map[string]string{}
	for k, v := range base.Tags {
		out.Tags[k] = v
	}
	for k, v := range c.Tags {
		out.Tags[k] = v
	}
	return &out
}

// Attachment joins a node to a switch. A bare name is enough.
type Attachment struct {
	Switch string `yaml:"switch" json:"switch"`
	// Address on the switch; the next free one unless given.
	Address Addr `yaml:"address,omitempty" json:"address,omitzero"`
	// MTU of this link; the switch's unless given.
	MTU        int `yaml:"mtu,omitempty" json:"mtu,omitempty"`
	Impairment `yaml:",inline"`
}

// Attachments is one attachment or several.
type Attachments []Attachment

// Impairment is what a link does to frames, each way. The zero value is a
// perfect link.
type Impairment struct {
	// Rate at which frames leave, in bits of Ethernet frame per second.
	Rate Rate `yaml:"rate,omitempty" json:"rate,omitempty"`
	// Delay one way. Jitter moves it by up to this much either way, drawn
	// evenly; frames stay in order.
	Delay  Duration `yaml:"delay,omitempty" json:"delay,omitempty"`
	Jitter Duration `yaml:"jitter,omitempty" json:"jitter,omitempty"`
	// Loss is the share of frames dropped; Reorder the share that overtakes
	// those before it by leaving at once, without the delay.
	Loss    Percent `yaml:"loss,omitempty" json:"loss,omitempty"`
	Reorder Percent `yaml:"reorder,omitempty" json:"reorder,omitempty"`
	// Seed of the draws; the same seed and frames give the same losses. Zero
	// takes one from the link's name.
	Seed uint64 `yaml:"seed,omitempty" json:"seed,omitempty"`
}

// Active says whether the link needs an emulator.
func (i Impairment) Active() bool {
	return i.Rate != 0 || i.Delay != 0 || i.Jitter != 0 || i.Loss != 0 || i.Reorder != 0
}

// Subnets and addresses that the planner falls back to.
var (
	// ContainerNet is behind every host's bridge; the bridge has its first address.
	ContainerNet = netip.MustParsePrefix("172.17.0.0/16")
	// MetadataAddr is where every cloud's metadata service is.
	MetadataAddr = netip.MustParseAddr("169.254.169.254")
)
