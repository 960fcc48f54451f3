package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/rogpeppe/go-internal/testscript"

	"weft/controller/api/apitest"
	"weft/controller/flowstore"
	"weft/controller/observe"
	"weft/model"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"weft": func() { os.Exit(execute()) }})
}

type serverKey struct{}

// The scripts run the real program against a real API over a real store, on a
// Unix socket and on HTTPS, with workloads that the command "world" sets.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setup,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"world": world, "waitfor": waitFor, "capture": capture},
	})
}

func setup(env *testscript.Env) error {
	dir, err := os.MkdirTemp("", "weft-cli-") // short: a socket's path has 108 bytes
	if err != nil {
		return err
	}
	s, err := apitest.Start(context.Background(), dir)
	if err != nil {
		return err
	}
	env.Defer(func() {
		s.Close()
		os.RemoveAll(dir)
	})
	env.Values[serverKey{}] = s
	env.Setenv("WEFT_SERVER", "unix://"+s.Socket)
	env.Setenv("WEFT_CONFIG", filepath.Join(env.WorkDir, "config", "config.yaml"))
	env.Setenv("WEFT_SOCKET", filepath.Join(env.WorkDir, "none.sock")) // never a controller that runs on this machine
	env.Setenv("HTTPS_URL", s.URL)
	env.Setenv("TZ", "UTC")
	return os.WriteFile(filepath.Join(env.WorkDir, "admin.token"), []byte(s.Token+"\n"), 0o600)
}

// world add NAME LABELS | address NAME ADDRESS | talk WORKLOAD DIRECTION PEER|NAME|ADDRESS PROTOCOL PORT COUNT ACTION [STAGED] | hit RULE-ID N | remove NAME | join HOST | relay NAME ADDRESS | offline HOST | ledger SEEN DELIVERED SHED | flow CLIENT SERVER PORT BYTES LOST | fleet
func world(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(serverKey{}).(*apitest.Server)
	if neg || len(args) == 0 {
		ts.Fatalf("usage: world VERB ...")
	}
	ctx := context.Background()
	var err error
	switch verb, args := args[0], args[1:]; verb {
	case "add":
		err = s.World.Add(args[0], args[1])
	case "address":
		s.World.SetAddress(args[0], args[1])
	case "talk":
		err = talk(s, args)
	case "hit":
		n, bad := strconv.ParseUint(args[1], 10, 64)
		ts.Check(bad)
		s.World.Hit(args[0], n)
	case "remove":
		s.World.Remove(args[0])
	case "join":
		err = s.World.Join(ctx, args[0])
	case "relay":
		err = s.World.JoinRelay(ctx, args[0], args[1])
	case "offline":
		s.World.SetOffline(args[0], time.Now().Add(-time.Hour))
	case "ledger":
		n := make([]uint64, 3)
		for i := range n {
			n[i], err = strconv.ParseUint(args[i], 10, 64)
			ts.Check(err)
		}
		count := func(n uint64) model.Count { return model.Count{Packets: n, Bytes: 100 * n} }
		s.World.SetLedger(model.Ledger{Seen: count(n[0]), Delivered: count(n[1]), Shed: count(n[2])})
	case "flow":
		err = connection(s, args)
	case "fleet":
		for _, w := range []string{"web-1 os.id=debian", "web-1:front app=web", "web-1:back app=web", "web-2 app=web", "ids role=ids", "ids:probe role=probe"} {
			name, labels, _ := strings.Cut(w, " ")
			ts.Check(s.World.Add(name, labels))
			if !strings.Contains(name, ":") {
				ts.Check(s.World.Join(ctx, name))
			}
		}
	default:
		ts.Fatalf("world: no verb %q", verb)
	}
	ts.Check(err)
}

// connection keeps what both ends report of a connection that is over.
func connection(s *apitest.Server, args []string) error {
	var n [3]uint64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseUint(args[2+i], 10, 64); err != nil {
			return err
		}
	}
	number := s.Flows.Counts().Batches + 1
	end := func(name string, port uint16) flowstore.End {
		out := flowstore.End{Workload: name, Address: netip.MustParseAddr("10.0.0.1"), Port: port, Labels: map[string]string{"app": strings.TrimRight(name, "-0123456789")}}
		if port < 1024 {
			out.Address = netip.MustParseAddr("10.0.0.2")
		}
		if a, err := netip.ParseAddr(name); err == nil { // somebody's outside, of whom a file would say so
			return flowstore.End{Address: a, Port: port, Country: "NO", AS: 64500, Organization: "Example"}
		}
		return out
	}
	now := time.Now()
	client := flowstore.Flow{Time: now, First: now.Add(-time.Second), Last: now, Host: args[0], Counted: true, Client: end(args[0], uint16(20_000+number)), Server: end(args[1], uint16(n[0])), Protocol: 6,
		Process: "/usr/bin/curl", User: "ann", Action: model.ActionAllow, New: true, Ended: true, Sent: model.Count{Packets: 10, Bytes: n[1]}, Received: model.Count{Packets: 10, Bytes: 2 * n[1]}}
	server := client
	server.Host, server.AtServer, server.Counted, server.Process, server.User = args[1], true, false, "/usr/sbin/nginx", "www-data"
	server.Sent.Bytes -= n[2]
	reports := []flowstore.Flow{client, server}
	if server.Server.Workload == "" {
		reports = reports[:1]
	}
	return s.Flows.Append(context.Background(), []flowstore.Batch{{HostUID: "u", Epoch: 1, Number: number, Flows: reports}})
}

// waitfor FILE TEXT waits until a file holds a text.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitfor FILE TEXT")
	}
	for range 200 {
		if data, err := os.ReadFile(ts.MkAbs(args[0])); err == nil && strings.Contains(string(data), args[1]) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Fatalf("%s never held %q: %v\n%s", args[0], args[1], err, fmt.Sprint(string(data)))
}

// talk records a conversation: first heard of an hour ago, last a minute ago.
func talk(s *apitest.Server, args []string) error {
	var n [3]uint64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseUint(args[3+i], 10, 64); err != nil {
			return err
		}
	}
	c := observe.Conversation{Workload: args[0], Direction: args[1], Protocol: uint8(n[0]), Port: uint16(n[1]), Connections: n[2], Action: model.Action(args[6]),
		First: time.Now().Add(-time.Hour), Last: time.Now().Add(-time.Minute), Process: model.PolicyProcess{Exe: "/usr/bin/app"}}
	if len(args) > 7 {
		c.StagedAction = model.Action(args[7])
	}
	for _, w := range s.World.Workloads() {
		if w.Metadata.Name == args[2] {
			c.Peer = args[2]
		}
	}
	if _, err := netip.ParseAddr(args[2]); c.Peer == "" && err == nil {
		c.PeerAddress = args[2]
	} else if c.Peer == "" {
		c.Names, c.PeerAddress = []string{args[2]}, "203.0.113.80"
	}
	return s.World.Talk(c)
}

// capture writes a pcap file: who web-1 at 10.0.0.1 asked for shop.example, and two
// connections to it, of which the second says which page. "capture FILE N" cuts
// it after N bytes.
func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 || len(args) > 2 {
		ts.Fatalf("usage: capture FILE [BYTES]")
	}
	var b bytes.Buffer
	w := pcapgo.NewWriter(&b)
	ts.Check(w.WriteFileHeader(65535, layers.LinkTypeEthernet))
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	client, resolver, server := net.IP{10, 0, 0, 1}, net.IP{10, 0, 0, 53}, net.IP{192, 0, 2, 7}
	frame := func(from, to net.IP, l4 interface {
		gopacket.SerializableLayer
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}, protocol layers.IPProtocol, rest gopacket.SerializableLayer) {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol, SrcIP: from, DstIP: to}
		ts.Check(l4.SetNetworkLayerForChecksum(ip))
		buf := gopacket.NewSerializeBuffer()
		ts.Check(gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			&layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}, ip, l4, rest))
		ts.Check(w.WritePacket(gopacket.CaptureInfo{Timestamp: when, CaptureLength: len(buf.Bytes()), Length: len(buf.Bytes())}, buf.Bytes()))
		when = when.Add(10 * time.Millisecond)
	}
	question := layers.DNSQuestion{Name: []byte("shop.example"), Type: layers.DNSTypeA, Class: layers.DNSClassIN}
	frame(client, resolver, &layers.UDP{SrcPort: 5000, DstPort: 53}, layers.IPProtocolUDP, &layers.DNS{ID: 1, RD: true, Questions: []layers.DNSQuestion{question}})
	frame(resolver, client, &layers.UDP{SrcPort: 53, DstPort: 5000}, layers.IPProtocolUDP, &layers.DNS{ID: 1, QR: true, Questions: []layers.DNSQuestion{question},
		Answers: []layers.DNSResourceRecord{{Name: question.Name, Type: layers.DNSTypeA, Class: layers.DNSClassIN, TTL: 60, IP: server}}})
	for i, text := range []string{"", "GET /orders/4711?token=secret HTTP/1.1\r\nHost: shop.example\r\n\r\n"} {
		port := layers.TCPPort(40000 + i)
		frame(client, server, &layers.TCP{SrcPort: port, DstPort: 80, Seq: 1, SYN: true}, layers.IPProtocolTCP, gopacket.Payload{})
		frame(server, client, &layers.TCP{SrcPort: 80, DstPort: port, Seq: 1, Ack: 2, SYN: true, ACK: true}, layers.IPProtocolTCP, gopacket.Payload{})
		frame(client, server, &layers.TCP{SrcPort: port, DstPort: 80, Seq: 2, Ack: 2, ACK: true}, layers.IPProtocolTCP, gopacket.Payload(text))
	}
	file := b.Bytes()
	if len(args) == 2 {
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		file = file[:n]
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), file, 0o600))
}
