package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/netsampler/goflow2/v2/decoders/netflow"
)

// receive takes flows as JSON lines by HTTP and as IPFIX over TCP, and writes down
// the client's port of each: in dir/lines and dir/ipfix.
func receive(ctx context.Context, lines, ipfix, dir string) error {
	note := func(name string) (func(ports []int) error, error) {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		return func(ports []int) error {
			var b bytes.Buffer
			for _, p := range ports {
				fmt.Fprintln(&b, p)
			}
			_, err := f.Write(b.Bytes())
			return err
		}, err
	}
	byHTTP, err1 := note("lines")
	byTCP, err2 := note("ipfix")
	l, err3 := net.Listen("tcp", ipfix)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	server := &http.Server{Addr: lines, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ports, err := readLines(r.Body)
		if err == nil { // what came in part is not taken
			err = byHTTP(ports)
		}
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})}
	context.AfterFunc(ctx, func() { l.Close(); server.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go readIPFIX(conn, byTCP) //nolint:errcheck // it ends with whom it reads from
		}
	}()
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return nil
}

func readLines(body io.Reader) (ports []int, err error) {
	z, err := gzip.NewReader(body)
	if err != nil {
		return nil, err
	}
	s := bufio.NewScanner(z)
	for s.Scan() {
		var flow struct{ Client struct{ Port int } }
		if err := json.Unmarshal(s.Bytes(), &flow); err != nil {
			return nil, err
		}
		ports = append(ports, flow.Client.Port)
	}
	return ports, s.Err()
}

// readIPFIX reads messages to the end of a session.
func readIPFIX(conn net.Conn, note func([]int) error) error {
	defer conn.Close()
	templates := netflow.CreateTemplateSystem()
	for r := bufio.NewReader(conn); ; {
		head, err := r.Peek(4)
		if err != nil {
			return err
		}
		m := make([]byte, binary.BigEndian.Uint16(head[2:]))
		if _, err := io.ReadFull(r, m); err != nil {
			return err
		}
		var p netflow.IPFIXPacket
		if err := netflow.DecodeMessageIPFIX(bytes.NewBuffer(m[2:]), templates, &p); err != nil {
			return err
		}
		var ports []int
		for _, set := range p.FlowSets {
			d, _ := set.(netflow.DataFlowSet)
			for _, record := range d.Records {
				for _, v := range record.Values {
					if v.Pen == 0 && v.Type == 7 { // sourceTransportPort
						ports = append(ports, int(binary.BigEndian.Uint16(v.Value.([]byte))))
					}
				}
			}
		}
		if err := note(ports); err != nil {
			return err
		}
	}
}

// A controller that is killed again and again while it exports leaves no flow out:
// each conversation is at each receiver, once or more.
func TestExportOutlivesKills(t *testing.T) {
	const conversations = 600
	f := newFleetFor(t, talkers, 200*time.Second)
	received := f.lab.Host(controllerHost).StateDir()
	settings := filepath.Join(received, "exports.yaml")
	f.write(settings, "exporters:\n- {name: lines, where: port=7000, jsonLines: {url: 'http://127.0.0.1:8080/'}}\n- {name: collector, where: port=7000, ipfix: {address: '127.0.0.1:4739', transport: tcp}}\n", 0o600)
	f.extra[controllerHost] = []string{"--export-flows-to", settings}
	f.helper("receiver", "receive", f.lab.Host(controllerHost), "127.0.0.1:8080", "127.0.0.1:4739", received)
	server := f.controller()
	f.agents("left", "right")
	f.helper("left-answer", "answer", f.lab.Host("left"), ":7000")
	f.metered("left", "right")
	target := fmt.Sprint(f.lab.Host("left").Addresses()[0], ":7000")
	ports := func(name string) map[int]int {
		text, err := os.ReadFile(filepath.Join(received, name))
		if err != nil {
			t.Fatal(err)
		}
		out := map[int]int{}
		for line := range strings.Lines(string(text)) {
			n, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil {
				t.Fatal(err)
			}
			out[n]++
		}
		return out
	}
	const first = 20000
	one := f.lab.Host("right").Container("one")
	for round := range 6 {
		f.generate(one, "ask", target, strconv.Itoa(first+round*conversations/6), strconv.Itoa(conversations/6))
		time.Sleep(time.Duration(round) * 500 * time.Millisecond) // not always at the same moment
		server.kill()
		server = f.controller()
	}
	for _, name := range []string{"lines", "ipfix"} {
		f.wait(60*time.Second, "each conversation is at the receiver of "+name, func() error {
			got := ports(name)
			for p := first; p < first+conversations; p++ {
				if got[p] == 0 {
					return fmt.Errorf("%d of %d are there, not that from port %d", len(got), conversations, p)
				}
			}
			return nil
		})
	}
	// A receiver that is killed with what it has not written down gets it again.
	f.procs["receiver"].signal(syscall.SIGKILL)
	f.generate(one, "ask", target, "40000", "50")
	time.Sleep(2 * time.Second)
	server.kill()
	f.controller()
	f.helper("receiver", "receive", f.lab.Host(controllerHost), "127.0.0.1:8080", "127.0.0.1:4739", received)
	for _, name := range []string{"lines", "ipfix"} {
		f.wait(60*time.Second, "what came while nobody received is at "+name, func() error {
			got := ports(name)
			for p := 40000; p < 40050; p++ {
				if got[p] == 0 {
					return fmt.Errorf("nothing from port %d", p)
				}
			}
			return nil
		})
	}
}
