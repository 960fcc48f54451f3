package lab

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"weft/lab/metadata"
	"weft/lab/netns"
	"weft/lab/topology"
)

// startMetadata serves the host's cloud metadata at 169.254.169.254:80 inside
// its namespace, where its containers reach it too. The address has host
// scope, as 127.0.0.1 has: it is none of the machine's own. The service itself
// is on another port, to which the kernel leads, so that a program of the host
// may have port 80 of every address, as in a real cloud.
func (h *Host) startMetadata() error {
	handler, err := metadata.Handler(h.instance())
	if err != nil {
		return err
	}
	var listener net.Listener
	err = netns.Do(h.NetNS(), func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(topology.MetadataAddr, 32)), Scope: int(netlink.SCOPE_HOST)}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			return err
		}
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(topology.MetadataAddr, metadataPort).String())
		return err
	})
	if err != nil {
		return fmt.Errorf("start metadata service: %w", err)
	}
	if err := applyRules(h.NetNS(), metadataRules); err != nil {
		return fmt.Errorf("start metadata service: %w", errors.Join(err, listener.Close()))
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	go server.Serve(listener)
	h.lab.onDown(server.Close)
	return nil
}

// metadataPort is tcpmux (RFC 1078), which nobody has served for decades.
const metadataPort = 1

const metadataRules = `table ip metadata {
 chain output {
  type nat hook output priority -100;
  ip daddr 169.254.169.254 tcp dport 80 dnat to 169.254.169.254:1
 }
 chain prerouting {
  type nat hook prerouting priority -100;
  ip daddr 169.254.169.254 tcp dport 80 dnat to 169.254.169.254:1
 }
}
`

func (h *Host) instance() metadata.Instance {
	c := h.node.Cloud
	port := h.node.Ports[0]
	i := metadata.Instance{
		Provider: c.Provider, Name: h.Name, InstanceID: c.InstanceID, InstanceType: c.InstanceType, Image: c.Image,
		Region: c.Region, Zone: c.Zone, Account: c.Account, Network: c.Network, Tags: c.Tags,
		Address: port.Address.Addr().String(), Subnet: port.Address.Masked().String(), MAC: h.macs[0],
	}
	for _, n := range h.lab.plan.Nodes {
		for _, m := range n.Public {
			if m.Host == h.Name {
				i.PublicIP = m.Outer.String()
			}
		}
	}
	return i
}
