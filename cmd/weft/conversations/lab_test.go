package conversations

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft/internal/application"
	"weft/internal/testreq"
	"weft/lab"
	"weft/packet"
)

const topology = `apiVersion: weft/v1
kind: Topology
metadata: {name: conversations}
spec:
  switches: [{name: lan, subnet: 10.9.0.0/24}]
  hosts: [{name: client, attach: lan}, {name: server, attach: lan}]
`

const nginxConf = `daemon off; pid %[1]s/nginx.pid; error_log %[1]s/error.log; worker_processes 1; user root;
events {}
http {
  access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
  server {
    listen 80; listen [::]:80; listen 8081 http2; listen 443 ssl http2; listen [::]:443 ssl http2;
    ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem;
    root %[1]s/www;
  }
}
`

// recording is the traffic of a small lab, captured at once on the client's
// interface and on all.
type recording struct {
	dir            string
	wire, any      string // files
	client, server *lab.Host
}

func (r *recording) sh(t *testing.T, h *lab.Host, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := h.Command(ctx, "sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// run starts a program that lasts for the test; where it says a word, it is
// waited for.
func (r *recording) run(t *testing.T, h *lab.Host, word string, argv ...string) *lab.Cmd {
	t.Helper()
	c := h.Command(context.Background(), argv...)
	said, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = w
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		c.Process.Kill() //nolint:errcheck // it may have ended
		c.Wait()         //nolint:errcheck
		said.Close()
	})
	if word != "" {
		lines := bufio.NewScanner(said)
		for found := false; !found; found = strings.Contains(lines.Text(), word) {
			if !lines.Scan() {
				t.Fatalf("%v ended", argv)
			}
		}
	}
	go io.Copy(io.Discard, said) //nolint:errcheck // ends with the program
	return c
}

// record brings the lab up, has real programs talk, and stops.
func record(t *testing.T) *recording {
	t.Helper()
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.Cgroup2, "tshark", "editcap", "tcpdump", "nginx", "curl", "openssl", "busybox", "socat", "ping", "nc")
	topo, err := lab.Parse("conversations.yaml", []byte(topology))
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Up(t.Context(), topo, lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	r := &recording{dir: t.TempDir(), client: l.Host("client"), server: l.Host("server")}
	r.wire, r.any = filepath.Join(r.dir, "wire.pcap"), filepath.Join(r.dir, "any.pcap")
	r.serve(t)
	device := r.device(t, r.client)
	var dumps []*lab.Cmd
	for _, args := range [][]string{{"-i", device, "-w", r.wire}, {"-i", "any", "-w", r.any}} {
		dumps = append(dumps, r.run(t, r.client, "listening on", append([]string{"tcpdump", "-n", "-U", "-Z", "root", "-B", "16384"}, args...)...))
	}
	r.talk(t)
	for _, d := range dumps {
		if err := d.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := d.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *recording) serve(t *testing.T) {
	t.Helper()
	www := filepath.Join(r.dir, "www")
	if err := os.Mkdir(www, 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		filepath.Join(www, "big"): make([]byte, 300_000), filepath.Join(www, "small"): []byte("small\n"),
		filepath.Join(r.dir, "nginx.conf"): fmt.Appendf(nil, nginxConf, r.dir), filepath.Join(r.dir, "dnsd.conf"): []byte("shop.example 10.9.0.77\n"),
	}
	for name, text := range files {
		if err := os.WriteFile(name, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i, h := range []*lab.Host{r.server, r.client} { // the lab itself has IPv4 only
		r.sh(t, h, fmt.Sprintf("echo 0 > /proc/sys/net/ipv6/conf/%[1]s/disable_ipv6 && ip -6 addr add fd09::%[2]d/64 dev %[1]s nodad", r.device(t, h), i+1))
	}
	r.sh(t, r.server, fmt.Sprintf("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=shop.example -keyout %[1]s/key.pem -out %[1]s/cert.pem 2>&1", r.dir))
	r.run(t, r.server, "", "nginx", "-c", filepath.Join(r.dir, "nginx.conf"), "-p", r.dir)
	r.run(t, r.server, "", "busybox", "dnsd", "-c", filepath.Join(r.dir, "dnsd.conf"), "-i", r.address())
	r.run(t, r.server, "", "socat", "-u", "UDP6-RECVFROM:9000,fork", "OPEN:/dev/null")
	r.run(t, r.server, "", "sh", "-c", `printf 'SSH-2.0-lab\r\n' | nc -l -p 22`)
	r.sh(t, r.client, "for i in $(seq 100); do curl -s -o /dev/null http://"+r.address()+"/small && exit 0; sleep 0.1; done; exit 1")
}

// device is a host's first interface.
func (r *recording) device(t *testing.T, h *lab.Host) string {
	t.Helper()
	return strings.Fields(r.sh(t, h, "ip -o -4 addr show scope global"))[1]
}

func (r *recording) address() string { return r.server.Addresses()[0].String() }

// talk makes what captures have in them.
func (r *recording) talk(t *testing.T) {
	t.Helper()
	for _, command := range []string{
		"busybox nslookup shop.example " + r.address() + " || true", // it asks for AAAA too, and gets none
		"curl -sf -o /dev/null http://" + r.address() + "/big",
		"curl -sf -o /dev/null http://[fd09::1]/big",
		"curl -sf -o /dev/null http://[fd09::1]/big http://[fd09::1]/small", // one connection, two requests
		"curl -s -o /dev/null -H 'Host: shop.example' 'http://" + r.address() + "/orders/4711?token=secret'",
		"curl -skf -o /dev/null --resolve shop.example:443:" + r.address() + " https://shop.example/big",
		"curl -skf -o /dev/null --resolve shop.example:443:[fd09::1] https://shop.example/small",
		"curl -sf -o /dev/null --http2-prior-knowledge http://" + r.address() + ":8081/small",
		// One 5-tuple, three connections; the client resets, so that nothing waits for its time.
		`for i in 1 2 3; do printf 'GET /small HTTP/1.0\r\n\r\n' | socat -t 5 - TCP4:` + r.address() + `:80,sourceport=45000,reuseaddr,linger=0 || exit 1; done`,
		"! curl -s http://" + r.address() + ":81/", // refused
		"timeout 1 curl -sk sftp://" + r.address() + "/ || true",
		"ping -q -c 2 " + r.address(),
		"ping -q -c 2 -s 4000 " + r.address(),
		"ping -q -c 2 -s 4000 fd09::1",
		"ping -q -c 1 127.0.0.1",
		"head -c 5000 /dev/zero | socat -u -b 5000 - UDP6-SENDTO:[fd09::1]:9000",
		"head -c 5000 /dev/zero | socat -u -b 5000 - UDP4-SENDTO:" + r.address() + ":9000",
		"echo x | socat -u - UDP4-SENDTO:" + r.address() + ":9001", // answered by ICMP
	} {
		r.sh(t, r.client, command)
	}
}

// tagged copies a capture, with VLAN tags in its frames.
func tagged(t *testing.T, from, to string, tags ...uint16) {
	t.Helper()
	in, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	out := slices.Clone(in[:24])
	for in = in[24:]; len(in) > 0; {
		kept := binary.LittleEndian.Uint32(in[8:])
		head, frame := slices.Clone(in[:16]), in[16:16+kept]
		in = in[16+kept:]
		var between []byte
		for i, tag := range tags {
			kind := uint16(packet.EtherTypeVLAN)
			if i < len(tags)-1 {
				kind = packet.EtherTypeQinQ
			}
			between = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(between, kind), tag)
		}
		for _, at := range []int{8, 12} {
			binary.LittleEndian.PutUint32(head[at:], binary.LittleEndian.Uint32(head[at:])+uint32(len(between)))
		}
		out = append(append(append(append(out, head...), frame[:12]...), between...), frame[12:]...)
	}
	if err := os.WriteFile(to, out, 0o600); err != nil {
		t.Fatal(err)
	}
}

// streams are the exact bytes of each TCP and UDP conversation, as tshark numbers them.
func streams(t *testing.T, file string) (out []uint64) {
	t.Helper()
	args := append([]string{"-r", file, "-T", "fields", "-e", "frame.len", "-Y", "!icmp && !icmpv6", "-e", "tcp.stream", "-e", "udp.stream"}, tsharkOptions...)
	text, err := exec.Command("tshark", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		n, err := strconv.ParseUint(f[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if key := f[1] + " " + f[2]; key != " " {
			sums[key] += n
		}
	}
	for _, n := range sums {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func exact(s *Summary) (out []uint64) {
	for i := range s.Conversations {
		c := &s.Conversations[i]
		if n := c.Sent.WireBytes + c.Received.WireBytes - c.Sent.FragmentBytes - c.Received.FragmentBytes; (c.Protocol == packet.ProtoTCP || c.Protocol == packet.ProtoUDP) && n > 0 {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// What real programs say to one another, as captured on an interface and on all
// of them, as pcapng, on trunks, and cut short.
func TestCapturesAgreeWithTshark(t *testing.T) {
	r := record(t)
	files := map[string]string{"wire": r.wire, "any": r.any}
	derive := func(name string, f func(to string)) {
		files[name] = filepath.Join(r.dir, name+".pcap")
		f(files[name])
	}
	derive("vlan", func(to string) { tagged(t, r.wire, to, 7) })
	derive("qinq", func(to string) { tagged(t, r.wire, to, 7, 8) })
	for name, args := range map[string][]string{"pcapng": {"-F", "pcapng"}, "nanoseconds": {"-F", "nsecpcap"}, "snapped": {"-F", "pcap", "-s", "120"}} {
		derive(name, func(to string) {
			if out, err := exec.Command("editcap", append(args, r.wire, to)...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		})
	}
	for name, file := range files {
		t.Run(name, func(t *testing.T) {
			want, err := fromTshark(t, file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := readFile(t, file, Options{})
			if err != nil {
				t.Fatal(err)
			}
			got := ours(s)
			for _, line := range difference(want, got) {
				t.Errorf("only tshark: %s", line)
			}
			for _, line := range difference(got, want) {
				t.Errorf("only weft:   %s", line)
			}
			if len(want) < 15 {
				t.Errorf("only %d lines to compare", len(want))
			}
			if name != "snapped" {
				checkNames(t, s)
			}
			if name != "wire" {
				return
			}
			checkCommunityIDs(t, s, file)
			if a, b := exact(s), streams(t, file); !slices.Equal(a, b) {
				t.Errorf("bytes of conversations: %v, tshark has %v", a, b)
			}
		})
	}
}

// checkNames says whether the programs' own words were found.
func checkNames(t *testing.T, s *Summary) {
	t.Helper()
	for what, has := range map[string]func(c *Conversation) bool{
		"TLS, by name": func(c *Conversation) bool {
			a := c.Application
			return a.Protocol == application.TLS && a.Host == "shop.example" && a.ALPN == "h2" && c.RTT > 0 && c.Ended
		},
		"HTTP, its answer, and no identifier": func(c *Conversation) bool {
			a := c.Application
			return a.Protocol == application.HTTP && a.Host == "shop.example" && a.Path == "/orders/{id}" && a.Method == "GET" && a.Status == 404 && a.Latency > 0
		},
		"HTTP/2": func(c *Conversation) bool {
			a := c.Application
			return a.Protocol == application.HTTP2 && a.Path == "/small" && a.Status == 200
		},
		"a question": func(c *Conversation) bool {
			return c.Application.Protocol == application.DNS && c.Application.Host == "shop.example" && c.Protocol == packet.ProtoUDP
		},
		"SSH": func(c *Conversation) bool { return c.Application.Protocol == application.SSH },
		"HTTP over IPv6, 300 kB, with a Community ID": func(c *Conversation) bool {
			return c.Server.String() == "[fd09::1]:80" && c.Received.Bytes > 300_000 && c.Application.Path == "/big" && strings.HasPrefix(c.CommunityID, "1:")
		},
	} {
		if !slices.ContainsFunc(s.Conversations, func(c Conversation) bool { return has(&c) }) {
			t.Errorf("not found: %s", what)
		}
	}
}

// checkCommunityIDs says whether those of a file's packets are tshark's.
func checkCommunityIDs(t *testing.T, s *Summary, file string) {
	t.Helper()
	text, err := exec.Command("tshark", append([]string{"-r", file, "-Y", "!(ip.frag_offset > 0) && !(ipv6.fraghdr.offset > 0)", "--enable-protocol", "communityid", "-T", "fields", "-e", "communityid"}, tsharkOptions...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for i := range s.Conversations {
		ids[s.Conversations[i].CommunityID] = true
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if id := strings.TrimSpace(line); id != "" {
			if n++; !ids[id] {
				t.Errorf("tshark has %s", id)
			}
		}
	}
	if n == 0 {
		t.Error("tshark has none")
	}
}
