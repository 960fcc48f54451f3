package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"weft/agent/connection"
	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
)

// Adopt puts connections into the table as if they had been judged by a state
// that is gone, so that the next packet of each is judged anew.
func (d *Driver) Adopt(_ *datapath.State, list []connection.Line) error {
	boot, err := bootTime()
	if err != nil {
		return err
	}
	for i := range list {
		c := &list[i]
		if c.Action != model.ActionAllow || !c.Local.IsValid() || !c.Remote.IsValid() {
			continue
		}
		k := policyConnKey{LocalPort: port(c.Local.Port()), RemotePort: port(c.Remote.Port()), Protocol: c.Protocol, Netns: c.NetNS}
		k.Family, k.Local = addressBytes(c.Local.Addr())
		_, k.Remote = addressBytes(c.Remote.Addr())
		v := policyConn{Rule: uint64(c.Rule), FirstNs: uint64(boot), LastNs: uint64(boot), Identity: uint32(c.Identity), PeerIdentity: uint32(c.PeerIdentity),
			PeerEntities: uint32(c.PeerEntities) >> entityShift, Direction: uint8(c.Direction), Action: actionNumbers[model.ActionAllow], PolicyPort: port(c.Port),
			Flags: connAnswered | connEstablished, SentPackets: c.Sent.Packets, SentBytes: c.Sent.Bytes, ReceivedPackets: c.Received.Packets, ReceivedBytes: c.Received.Bytes}
		if c.Direction == policy.Egress && c.Translated.IsValid() {
			v.TranslatedPort = port(c.Translated.Port())
			_, v.Translated = addressBytes(c.Translated.Addr())
		}
		err := d.objects.Conns.Update(&k, &v, ebpf.UpdateNoExist)
		if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return fmt.Errorf("take over a connection (%d of %d): %w", i+1, len(list), err)
		}
	}
	return nil
}
