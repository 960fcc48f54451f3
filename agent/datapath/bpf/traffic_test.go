package bpf

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// trafficEnv names what this program is to do instead of the tests.
const trafficEnv = "WEFT_TEST_TRAFFIC"

// told is what a socket's own kernel says it has sent and received, at the level
// of a wire: packets of TCP, or datagrams.
type told struct {
	Local, Remote netip.AddrPort
	Sent          uint64
	Received      uint64
	SentBytes     uint64 // of payload, in all, with what was sent again; 0 where not known
	ReceivedBytes uint64
	Drops         uint64 // of what was received, or sent and never was
}

// traffic makes some at this program's own loopback and returns the truth.
func traffic(what string) ([]told, error) {
	switch what {
	case "bulk4":
		return bulk("127.0.0.1:0")
	case "bulk6":
		return bulk("[::1]:0")
	case "segments":
		return segments()
	case "reuse":
		return reuse()
	case "full":
		return fullBuffer()
	case "unheard":
		return unheard()
	case "unheard-fixed":
		return unheardAt(filteredPort)
	case "hung-up":
		return hungUp()
	case "checksum":
		return wrongChecksum()
	case "web":
		return web()
	case "datagram":
		return datagram()
	}
	return nil, fmt.Errorf("traffic of the kind %q is not known", what)
}

// inside runs traffic in a network namespace and a cgroup. Its sockets stay open
// until the test ends.
func inside(t *testing.T, what, netns, cgroup string) (out []told) {
	t.Helper()
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nsenter", "--net="+netns, self)
	cmd.Env = append(os.Environ(), trafficEnv+"="+what)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("traffic: %v: %s", err, &stderr)
		}
	})
	if err := json.NewDecoder(stdout).Decode(&out); err != nil {
		t.Fatalf("traffic: %v", err)
	}
	return out
}

func say(what string) int {
	list, err := traffic(what)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(list)
	}
	io.Copy(io.Discard, os.Stdin) // sockets stay until they have been looked at
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func tcpInfo(c net.Conn) (told, error) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return told{}, err
	}
	out := told{Local: c.LocalAddr().(*net.TCPAddr).AddrPort(), Remote: c.RemoteAddr().(*net.TCPAddr).AddrPort()}
	var info *unix.TCPInfo
	var failed error
	err = raw.Control(func(fd uintptr) { info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err = errors.Join(err, failed); err == nil {
		out.Sent, out.Received = uint64(info.Segs_out), uint64(info.Segs_in)
		out.SentBytes, out.ReceivedBytes = info.Bytes_sent, info.Bytes_received
	}
	return out, err
}

// datagram sends one between two ports that are always the same.
func datagram() ([]told, error) {
	again := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (failed error) {
		err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		return errors.Join(err, failed)
	}}
	var ends [2]netip.AddrPort
	var from net.PacketConn
	for i := range ends {
		ends[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 4997+uint16(i))
		c, err := again.ListenPacket(context.Background(), "udp4", ends[i].String())
		if err != nil {
			return nil, err
		}
		if i == 0 {
			from = c
		}
	}
	_, err := from.WriteTo(make([]byte, datagramBytes), net.UDPAddrFromAddrPort(ends[1]))
	return []told{{Local: ends[0], Remote: ends[1], Sent: 1}}, err
}

const datagramBytes = 30

// bulkBytes go each way.
const bulkBytes = 8 << 20

// bulk sends much both ways over one connection.
func bulk(address string) ([]told, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	ends := make([]net.Conn, 2)
	if ends[0], err = net.Dial("tcp", l.Addr().String()); err == nil {
		ends[1], err = l.Accept()
	}
	if err != nil {
		return nil, err
	}
	failed := make(chan error, 4)
	for _, c := range ends {
		go func() {
			_, err := c.Write(make([]byte, bulkBytes))
			failed <- err
		}()
		go func() {
			_, err := io.CopyN(io.Discard, c, bulkBytes)
			failed <- err
		}()
	}
	for range 4 {
		err = errors.Join(err, <-failed)
	}
	time.Sleep(300 * time.Millisecond) // for acknowledgements that wait
	var out []told
	for i, c := range ends {
		x, failed := tcpInfo(c)
		x.Sent += uint64(i) // the answer to a SYN, which is sent before there is a socket
		out, err = append(out, x), errors.Join(err, failed)
	}
	return out, err
}

// segments sends datagrams that the kernel cuts out of larger ones.
func segments() ([]told, error) {
	to, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	from, err := net.DialUDP("udp4", nil, to.LocalAddr().(*net.UDPAddr))
	if err != nil {
		return nil, err
	}
	raw, err := from.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000) })
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	x := told{Local: from.LocalAddr().(*net.UDPAddr).AddrPort(), Remote: to.LocalAddr().(*net.UDPAddr).AddrPort()}
	buf := make([]byte, 2000)
	for range 10 {
		if _, err := from.Write(make([]byte, 7500)); err != nil { // seven of a thousand bytes, and one of 500
			return nil, err
		}
		x.Sent, x.SentBytes = x.Sent+8, x.SentBytes+7500
		for range 8 {
			if _, err := to.Read(buf); err != nil {
				return nil, err
			}
		}
	}
	return []told{x}, nil
}

// reuses is how often the same ports are another connection's.
const reuses = 300

// reuse makes connections one after the other from one port to one port, faster
// than anybody reads a table.
func reuse() ([]told, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	served := make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				served <- err
				return
			}
			io.Copy(c, c)
			c.Close()
		}
	}()
	var out []told
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		failed := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		return errors.Join(err, failed)
	}, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 0}}
	for i := range reuses {
		c, err := d.Dial("tcp4", l.Addr().String())
		if err != nil {
			return out, err
		}
		d.LocalAddr = c.LocalAddr()
		if _, err = c.Write(make([]byte, 100+i)); err == nil {
			_, err = io.ReadFull(c, make([]byte, 100+i))
		}
		if err == nil {
			err = c.(*net.TCPConn).CloseWrite()
		}
		if err == nil {
			_, err = c.Read(make([]byte, 1)) // until the other end has closed too
		}
		if !errors.Is(err, io.EOF) {
			return out, fmt.Errorf("connection %d: %w", i, err)
		}
		x, err := tcpInfo(c)
		if err != nil {
			return out, err
		}
		out = append(out, x)
		// A reset ends it at once: the port is free for the next.
		if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close()); err != nil {
			return out, err
		}
	}
	return out, l.Close()
}

// webHost is what web's client calls its servers.
const webHost = "shop.example.com"

// web asks a server for a page over HTTP, and another over TLS with a hello that
// takes two segments.
func web() ([]told, error) {
	var out []told
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, secure := range []bool{false, true} {
		server := httptest.NewUnstartedServer(answer)
		if secure {
			server.StartTLS()
		} else {
			server.Start()
		}
		var d net.Dialer
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := d.DialContext(ctx, "tcp4", server.Listener.Addr().String())
			if err == nil {
				out = append(out, told{Local: c.LocalAddr().(*net.TCPAddr).AddrPort(), Remote: c.RemoteAddr().(*net.TCPAddr).AddrPort()})
			}
			return c, err
		}, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1", strings.Repeat("x", 200), strings.Repeat("y", 200), strings.Repeat("z", 250), strings.Repeat("w", 250)}}}} //nolint:gosec // the certificate is of no interest here
		scheme := "http"
		if secure {
			scheme = "https"
		}
		res, err := client.Get(scheme + "://" + webHost + "/orders/4711?token=secret")
		if err != nil {
			return nil, err
		}
		res.Body.Close()
		client.CloseIdleConnections()
		server.Close()
	}
	return out, nil
}
