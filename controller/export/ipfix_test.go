package export

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/netsampler/goflow2/v2/decoders/netflow"

	"weft/controller/flowstore"
	"weft/internal/testreq"
	"weft/model"
)

// collector listens as one over UDP, and hands on messages.
func collector(t *testing.T) (address string, messages <-chan []byte) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.UDPConn).SetReadBuffer(8 << 20)
	t.Cleanup(func() { conn.Close() })
	out := make(chan []byte, 1000)
	go func() {
		for b := make([]byte, 65536); ; {
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			out <- bytes.Clone(b[:n])
		}
	}()
	return conn.LocalAddr().String(), out
}

// mixed are flows of both address families, one of them denied, with long words.
func mixed(n int) []flowstore.Flow {
	out := make([]flowstore.Flow, n)
	for i := range out {
		f := sample(1000 + i)
		f.ID = uint64(i + 1)
		if i%10 == 0 {
			f.Client.Address, f.Server.Address = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
			f.Server.Country, f.Server.AS, f.Server.Organization = "NO", 4_200_000_000, "Example"
		}
		if i == 7 {
			f.Action, f.Ended, f.Process = model.ActionDeny, false, strings.Repeat("ä", 200)
		}
		out[i] = f
	}
	return out
}

func ipfixSender(t *testing.T, text string) sender {
	t.Helper()
	s, err := settings(t, "exporters:\n- {name: i, ipfix: {"+text+"}}\n").Exporters[0].sender(Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// gather takes messages until they have as many records.
func gather(t *testing.T, messages <-chan []byte, records int) (out [][]byte, list []netflow.DataRecord) {
	t.Helper()
	templates := netflow.CreateTemplateSystem()
	for len(list) < records {
		select {
		case m := <-messages:
			var p netflow.IPFIXPacket
			if err := netflow.DecodeMessageIPFIX(bytes.NewBuffer(m[2:]), templates, &p); err != nil {
				t.Fatal(err)
			}
			if int(p.SequenceNumber) != len(list) || int(p.Length) != len(m) {
				t.Errorf("sequence %d after %d records, length %d of %d", p.SequenceNumber, len(list), p.Length, len(m))
			}
			for _, set := range p.FlowSets {
				if d, ok := set.(netflow.DataFlowSet); ok {
					list = append(list, d.Records...)
				}
			}
			out = append(out, m)
		case <-time.After(10 * time.Second):
			t.Fatalf("%d records in 10 s, not %d", len(list), records)
		}
	}
	return out, list
}

func fieldOf(r netflow.DataRecord, enterprise uint32, id uint16) []byte {
	for _, v := range r.Values {
		if v.Pen == enterprise && v.Type == id {
			return v.Value.([]byte)
		}
	}
	return nil
}

// A decoder of somebody else reads what is sent over UDP, in datagrams that fit.
func TestIPFIXOverUDP(t *testing.T) {
	address, messages := collector(t)
	s := ipfixSender(t, "address: '"+address+"', enterprise: 99999")
	flows := mixed(100)
	if n, err := s.send(t.Context(), flows); n != 100 || err != nil {
		t.Fatal(n, err)
	}
	all, list := gather(t, messages, 100)
	for _, m := range all {
		if len(m) > minMTU-headers {
			t.Errorf("a message of %d bytes", len(m))
		}
	}
	u64 := func(b []byte) uint64 { return binary.BigEndian.Uint64(b) }
	for i, r := range list {
		f := &flows[i]
		source := fieldOf(r, 0, 8)
		if f.Client.Address.Is6() {
			source = fieldOf(r, 0, 27)
		}
		if got, _ := netip.AddrFromSlice(source); got != f.Client.Address || int(binary.BigEndian.Uint16(fieldOf(r, 0, 7))) != 1000+i {
			t.Fatalf("record %d is of %s: %+v", i, got, r)
		}
		if u64(fieldOf(r, 0, 1)) != 300 || u64(fieldOf(r, reversePEN, 1)) != 7000 || u64(fieldOf(r, reversePEN, 2)) != 5 || u64(fieldOf(r, 0, 152)) != uint64(f.First.UnixMilli()) {
			t.Errorf("record %d: %+v", i, r)
		}
		if got := string(fieldOf(r, 99999, 1)); got != "web-1" {
			t.Errorf("the client is %q", got)
		}
		if client, server := fieldOf(r, 0, 6), fieldOf(r, reversePEN, 6); binary.BigEndian.Uint16(client) != 0x1b || binary.BigEndian.Uint16(server) != 0x1a || u64(fieldOf(r, 0, 133)) != 4 ||
			string(fieldOf(r, 99999, 8)) != "closed" || string(fieldOf(r, 99999, 9)) != "TCP_CSUM" {
			t.Errorf("record %d: flags %x and %x; %+v", i, client, server, r)
		}
	}
	if x := list[10]; binary.BigEndian.Uint32(fieldOf(x, 0, 17)) != 4_200_000_000 || binary.BigEndian.Uint32(fieldOf(x, 0, 16)) != 0 || string(fieldOf(x, 99999, 7)) != "NO" || len(fieldOf(x, 99999, 6)) != 0 {
		t.Errorf("of the one to Norway: %+v", x)
	}
	if d := list[7]; fieldOf(d, 0, 89)[0] != 129 || fieldOf(d, 0, 136)[0] != 2 || string(fieldOf(d, 99999, 4)) != strings.Repeat("ä", 64) {
		t.Errorf("of the denied one: %+v", d)
	}
	// Templates go out again when they are old, and with each session.
	x := s.(*exporting)
	x.said = x.said.Add(-2 * templatesEach)
	if _, err := s.send(t.Context(), flows[:1]); err != nil {
		t.Fatal(err)
	}
	if m := <-messages; binary.BigEndian.Uint16(m[messageHeader:]) != templateSetID || binary.BigEndian.Uint32(m[8:]) != 100 {
		t.Errorf("no templates come again: %x", m)
	}
}

// A collector over TCP that goes and comes back has templates in each session.
func TestIPFIXOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := ipfixSender(t, "address: '"+l.Addr().String()+"', transport: tcp")
	for range 2 {
		if n, err := s.send(t.Context(), mixed(2000)); n != 2000 || err != nil {
			t.Fatal(n, err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		messages := make(chan []byte, 1000)
		records := make(chan bool)
		go func() {
			defer close(records)
			for {
				m := make([]byte, 65536)
				if _, err := io.ReadFull(conn, m[:4]); err != nil {
					return
				}
				n := binary.BigEndian.Uint16(m[2:])
				if _, err := io.ReadFull(conn, m[4:n]); err != nil {
					return
				}
				messages <- m[:n]
			}
		}()
		gather(t, messages, 2000)
		conn.Close()
		<-records
		await(t, "the end of the session", func() bool {
			select {
			case <-s.(*exporting).gone:
				return true
			default:
				return false
			}
		})
	}
}

// tshark reads what is sent, without a complaint.
func TestTsharkReadsIPFIX(t *testing.T) {
	testreq.Need(t, "tshark")
	address, messages := collector(t)
	s := ipfixSender(t, "address: '"+address+"'")
	if _, err := s.send(t.Context(), mixed(20)); err != nil {
		t.Fatal(err)
	}
	all, _ := gather(t, messages, 20)
	file := filepath.Join(t.TempDir(), "ipfix.pcap")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := pcapgo.NewWriter(f)
	if err := w.WriteFileHeader(65536, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IP{192, 0, 2, 1}, DstIP: net.IP{192, 0, 2, 2}}
		udp := &layers.UDP{SrcPort: 40000, DstPort: 4739}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		b := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}, ip, udp, gopacket.Payload(m)); err != nil {
			t.Fatal(err)
		}
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Now(), CaptureLength: len(b.Bytes()), Length: len(b.Bytes())}, b.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	out, err := exec.CommandContext(t.Context(), "tshark", "-r", file, "-d", "udp.port==4739,cflow", "-V").Output()
	if err != nil {
		t.Fatal(err)
	}
	text := string(out)
	for what, n := range map[string]int{"SrcPort: 1003": 1, "Malformed": 0, "Expert Info": 0, "Biflow Direction: Initiator": 20, "Octets: 300": 20, "SrcAddr: 2001:db8::1": 2} {
		if got := strings.Count(text, what); got != n {
			t.Errorf("%q is there %d times, not %d", what, got, n)
		}
	}
	if t.Failed() {
		t.Log(text[:min(len(text), 6000)])
	}
}

// nfcapd keeps what is sent as it keeps any exporter's.
func TestNfcapdKeepsIPFIX(t *testing.T) {
	testreq.Need(t, "nfcapd", "nfdump")
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.LocalAddr().(*net.UDPAddr)
	free.Close()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, "nfcapd", "-l", dir, "-b", "127.0.0.1", "-p", fmt.Sprint(address.Port), "-B", "2000000")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := ipfixSender(t, "address: '"+address.String()+"'")
	await(t, "nfcapd", func() bool { // a port that nobody listens to answers with an error, later
		if _, err := s.send(t.Context(), mixed(1)); err != nil {
			return false
		}
		time.Sleep(20 * time.Millisecond)
		_, err := s.send(t.Context(), mixed(1))
		return err == nil
	})
	if _, err := s.send(t.Context(), mixed(50)); err != nil {
		t.Fatal(err)
	}
	await(t, "nfcapd to have read all", func() bool {
		sockets, err := os.ReadFile("/proc/self/net/udp")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(sockets)) {
			if x := strings.Fields(line); x[1] == fmt.Sprintf("0100007F:%04X", address.Port) {
				return strings.HasSuffix(x[4], ":00000000")
			}
		}
		return false
	})
	cancel()
	_ = cmd.Wait()
	out, err := exec.CommandContext(t.Context(), "nfdump", "-R", dir, "-o", "csv", "src port 1005 or src port 1010").Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	if text := string(out); !strings.Contains(text, "10.0.0.1,10.0.0.2,1005,5432,TCP") || !strings.Contains(text, "2001:db8::1,2001:db8::2,1010,5432,TCP") || !strings.Contains(text, ",3,300,5,7000,") {
		t.Errorf("nfdump says\n%s\n%s", text, log.String())
	}
}

// A record is written without memory of its own, and any flow fits a datagram.
func TestRecordsDoNotAllocate(t *testing.T) {
	f := sample(1)
	long := strings.Repeat("x", 1000)
	f.User, f.Client.Workload, f.Server.Workload, f.Host, f.Process, f.Name = long, long, long, long, long, long
	list := []flowstore.Flow{f, f, f}
	s := ipfixSender(t, "address: '127.0.0.1:4739', enterprise: 99999").(*exporting)
	s.message = make([]byte, 0, 65536)
	if n := testing.AllocsPerRun(100, func() { s.fill(list) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if n := s.fill(list); n != 1 || len(s.message) > s.size {
		t.Errorf("%d records in %d bytes", n, len(s.message))
	}
}

func FuzzIPFIXWords(f *testing.F) {
	f.Add("a", "/usr/bin/x", uint16(1), true)
	f.Fuzz(func(t *testing.T, user, process string, port uint16, six bool) {
		x := sample(int(port))
		x.User, x.Process = user, process
		if six {
			x.Server.Address = netip.MustParseAddr("2001:db8::2")
		}
		s := ipfixSender(t, "address: '127.0.0.1:4739', enterprise: 99999").(*exporting)
		templates := netflow.CreateTemplateSystem()
		var list []netflow.DataRecord
		read := func(m []byte) {
			putMessage(m, time.Now(), 0, 1)
			var p netflow.IPFIXPacket
			if err := netflow.DecodeMessageIPFIX(bytes.NewBuffer(bytes.Clone(m[2:])), templates, &p); err != nil {
				t.Fatal(err)
			}
			for _, set := range p.FlowSets {
				if d, ok := set.(netflow.DataFlowSet); ok {
					list = append(list, d.Records...)
				}
			}
		}
		s.message = appendTemplates(s.begin(), s.templates[:])
		read(s.message)
		s.fill([]flowstore.Flow{x})
		read(s.message)
		if len(list) != 1 || !bytes.HasPrefix([]byte(user), fieldOf(list[0], 0, 371)) || !slices.Equal(fieldOf(list[0], 0, 7), []byte{byte(port >> 8), byte(port)}) {
			t.Fatalf("%+v", list)
		}
	})
}
