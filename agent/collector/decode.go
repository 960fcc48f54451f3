package collector

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/netsampler/goflow2/v2/decoders/netflow"
	"github.com/netsampler/goflow2/v2/decoders/netflowlegacy"
	"github.com/netsampler/goflow2/v2/decoders/sflow"
	flowpb "github.com/netsampler/goflow2/v2/pb"
	"github.com/netsampler/goflow2/v2/producer"
	protoproducer "github.com/netsampler/goflow2/v2/producer/proto"

	"weft/model"
	"weft/packet"
	"weft/wire/flowwire"
)

// Limits of what exporters can make us remember.
const (
	maxExporters = 256
	maxTemplates = 256 // of an exporter
	maxFields    = 256 // of a template
	maxDomains   = 256 // whose sampling rate is known, of an exporter
)

// What is more than these is no count that anything could have.
const (
	maxRate  = 1 << 20
	maxCount = 1 << 43
)

// decoder reads datagrams. It is used by one goroutine.
type decoder struct {
	exporters map[netip.AddrPort]*exporter
	config    protoproducer.ProtoProducerConfig
	records   []flowwire.Record
}

// exporter is what is known of one: templates of NetFlow 9 and IPFIX, and rates.
type exporter struct {
	templates *templates
	rates     *rates
}

func newDecoder() *decoder {
	config, err := (&protoproducer.ProducerConfig{}).Compile()
	if err != nil {
		panic(err) // of nothing
	}
	return &decoder{exporters: map[netip.AddrPort]*exporter{}, config: config}
}

// exporter finds one by its address and port: template numbers are a transport
// session's own (RFC 7011, 8).
func (d *decoder) exporter(from netip.AddrPort) *exporter {
	if e, ok := d.exporters[from]; ok {
		return e
	}
	if len(d.exporters) >= maxExporters {
		// Those that live say their templates again.
		clear(d.exporters)
	}
	e := &exporter{templates: &templates{NetFlowTemplateSystem: netflow.CreateTemplateSystem(), known: map[templateKey]bool{}}, rates: &rates{by: map[domain]uint32{}}}
	d.exporters[from] = e
	return e
}

// decode adds the records of a datagram.
func (d *decoder) decode(now time.Time, from netip.AddrPort, b []byte) error {
	if len(b) < 4 {
		return errors.New("too short for NetFlow, IPFIX or sFlow")
	}
	e := d.exporter(from)
	var err error
	var list []producer.ProducerMessage
	buf := bytes.NewBuffer(b)
	switch version := binary.BigEndian.Uint16(b); {
	case version == 5:
		var p netflowlegacy.PacketNetFlowV5
		if err = netflowlegacy.DecodeMessageVersion(buf, &p); err == nil {
			list, err = protoproducer.ProcessMessageNetFlowLegacy(&p)
		}
	case version == 9 || version == 10:
		var v9 netflow.NFv9Packet
		var ipfix netflow.IPFIXPacket
		if err = netflow.DecodeMessageVersion(buf, e.templates, &v9, &ipfix); err != nil {
			break
		}
		if version == 9 {
			list, err = protoproducer.ProcessMessageNetFlowV9Config(&v9, e.rates, d.config)
		} else {
			list, err = protoproducer.ProcessMessageIPFIXConfig(&ipfix, e.rates, d.config)
		}
	case version == 0 && binary.BigEndian.Uint32(b) == 5:
		var p sflow.Packet
		if err = checkSamples(b); err != nil {
			break
		}
		if err = sflow.DecodeMessageVersion(buf, &p); err == nil {
			list, err = protoproducer.ProcessMessageSFlowConfig(&p, d.config)
		}
	default:
		return fmt.Errorf("version %d is none of NetFlow 5 and 9, IPFIX (10) and sFlow 5", version)
	}
	for _, m := range list {
		if message, ok := m.(*protoproducer.ProtoProducerMessage); ok {
			if r, ok := record(now, &message.FlowMessage); ok {
				d.records = append(d.records, r)
			}
		}
	}
	(&protoproducer.ProtoProducer{}).Commit(list)
	if errors.Is(err, netflow.ErrorTemplateNotFound) {
		return fmt.Errorf("%w; exporters send templates now and then", err)
	}
	return err
}

// record reads a flow of one direction. False: it is not IP.
func record(now time.Time, m *flowpb.FlowMessage) (flowwire.Record, bool) {
	from, ok := netip.AddrFromSlice(m.SrcAddr)
	to, ok2 := netip.AddrFromSlice(m.DstAddr)
	if !ok || !ok2 || m.Proto > 255 || m.SrcPort > 65535 || m.DstPort > 65535 {
		return flowwire.Record{}, false
	}
	// One in so many packets stands for all.
	rate := max(m.SamplingRate, 1)
	if rate > maxRate || m.Packets > maxCount || m.Bytes > maxCount {
		return flowwire.Record{}, false
	}
	sent := flowwire.Count{Packets: m.Packets * rate, Bytes: networkBytes(m) * rate}
	r := flowwire.Record{
		Local: netip.AddrPortFrom(from.Unmap(), uint16(m.SrcPort)), Remote: netip.AddrPortFrom(to.Unmap(), uint16(m.DstPort)), Protocol: uint8(m.Proto),
		Observed: true, Egress: true, New: true, Action: model.ActionAllow, First: when(now, m.TimeFlowStartNs), Last: when(now, m.TimeFlowEndNs), Sent: sent,
	}
	if r.First.After(r.Last) {
		r.First = r.Last
	}
	if r.Protocol == packet.ProtoTCP {
		r.SentFlags = packet.TCPFlags(m.TcpFlags)
	}
	// Who answers is who was asked at a well-known port. The asking is another
	// record; it is that which begins the connection.
	if r.Local.Port() < 1024 && r.Remote.Port() >= 1024 && model.HasPorts(r.Protocol) {
		r.Local, r.Remote = r.Remote, r.Local
		r.Sent, r.Received, r.New = flowwire.Count{}, sent, false
		r.SentFlags, r.ReceivedFlags = 0, r.SentFlags
	}
	return r, true
}

// networkBytes takes what is before the IP header from the length of a frame,
// which sFlow reports.
func networkBytes(m *flowpb.FlowMessage) uint64 {
	n := m.Bytes
	if m.Type != flowpb.FlowMessage_SFLOW_5 {
		return n
	}
	for i, layer := range m.LayerStack {
		if layer == flowpb.FlowMessage_IPv4 || layer == flowpb.FlowMessage_IPv6 || i >= len(m.LayerSize) {
			break
		}
		n -= min(n, uint64(m.LayerSize[i]))
	}
	return n
}

// longest is how long a flow may last before its report; what says otherwise has
// another clock, and is told of by ours.
const longest = 24 * time.Hour

func when(now time.Time, nanos uint64) time.Time {
	t := time.Unix(0, int64(nanos)) //nolint:gosec // checked below
	if t.After(now) || now.Sub(t) > longest {
		return now
	}
	return t
}

type templateKey struct {
	version uint16
	domain  uint32
	id      uint16
}

// templates are so many at most; where there are more, what an exporter said
// before is forgotten.
type templates struct {
	netflow.NetFlowTemplateSystem
	known map[templateKey]bool
}

// AddTemplate implements netflow.NetFlowTemplateSystem.
func (t *templates) AddTemplate(version uint16, domain uint32, id uint16, template any) error {
	if err := check(template); err != nil {
		return err
	}
	k := templateKey{version, domain, id}
	if !t.known[k] && len(t.known) >= maxTemplates {
		t.NetFlowTemplateSystem, t.known = netflow.CreateTemplateSystem(), map[templateKey]bool{}
	}
	t.known[k] = true
	return t.NetFlowTemplateSystem.AddTemplate(version, domain, id, template)
}

// check refuses templates by which a few bytes would be endlessly many records, or
// records of endlessly many fields: goflow2 reads what they say.
func check(template any) error {
	var fields []netflow.Field
	switch x := template.(type) {
	case netflow.TemplateRecord:
		fields = x.Fields
	case netflow.NFv9OptionsTemplateRecord:
		fields = slices.Concat(x.Scopes, x.Options)
	case netflow.IPFIXOptionsTemplateRecord:
		fields = slices.Concat(x.Scopes, x.Options)
	default:
		return fmt.Errorf("a template of another kind: %T", template)
	}
	if n := len(fields); n == 0 || n > maxFields {
		return fmt.Errorf("a template with %d fields; 1 to %d are read", n, maxFields)
	}
	if slices.ContainsFunc(fields, func(f netflow.Field) bool { return f.Length == 0 }) {
		return errors.New("a template with a field of no bytes")
	}
	return nil
}

type domain struct {
	version uint16
	id      uint32
}

// rates are the sampling rates that options say.
type rates struct{ by map[domain]uint32 }

// AddSamplingRate implements protoproducer.SamplingRateSystem.
func (r *rates) AddSamplingRate(version uint16, id uint32, rate uint32) {
	if _, known := r.by[domain{version, id}]; known || len(r.by) < maxDomains {
		r.by[domain{version, id}] = rate
	}
}

// GetSamplingRate implements protoproducer.SamplingRateSystem.
func (r *rates) GetSamplingRate(version uint16, id uint32) (uint32, error) {
	return r.by[domain{version, id}], nil
}
