package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/agent/transport"
	"weft/wire/wirepb"
)

// freeAddress finds a port on loopback that is free at the moment.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestRelayProcess runs the program as a user does: it joins, two agents speak
// through it, it reports, and it comes back after kill -9 with the identity it
// had.
func TestRelayProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	f := newFleet(t)
	bin := filepath.Join(t.TempDir(), "weft")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	data, listen, metrics := t.TempDir(), freeAddress(t), freeAddress(t)
	tokenFile := f.TokenFile(t, f.Token(1))
	start := func() (*exec.Cmd, *lockedBuffer) {
		out := &lockedBuffer{}
		cmd := exec.Command(bin, "relay", "--controller", f.URL, "--token-file", tokenFile, "--listen", listen,
			"--advertise", listen, "--data", data, "--name", "r1", "--metrics", metrics)
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if cmd.ProcessState == nil {
				cmd.Process.Kill()
				cmd.Wait()
			}
		})
		return cmd, out
	}
	cmd, out := start()
	var id string
	eventually(t, 20*time.Second, func() error {
		_, rest, ok := strings.Cut(out.String(), "identity=")
		if !ok {
			return io.EOF
		}
		id, _, _ = strings.Cut(rest, " ")
		id = strings.TrimSpace(id)
		return nil
	})
	section := &wirepb.TransportSection{Relays: []*wirepb.RelayEndpoint{{Name: "r1", SpiffeId: id, Addresses: []string{listen}}}}
	tool := f.agent(t, "ids", fast, echo)
	web := f.agent(t, "web", fast, nil)
	if err := web.Apply(t.Context(), section); err != nil {
		t.Fatal(err)
	}
	section.Listen = true
	if err := tool.Apply(t.Context(), section); err != nil {
		t.Fatal(err)
	}
	conn := dial(t, web, tool)
	if err := roundTrip(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if p := conn.Path(); p.Kind != transport.PathRelay || p.Relay != "r1" || p.Remote != listen {
		t.Errorf("path is %+v", p)
	}
	eventually(t, 10*time.Second, func() error {
		for report := range f.Reports {
			if report.Sessions == 2 && report.Streams == 1 && report.Bytes > 0 {
				return nil
			}
		}
		return io.EOF
	})
	res, err := http.Get("http://" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if !strings.Contains(string(body), "\nweft_relay_streams 1\n") {
		t.Errorf("metrics lack the stream:\n%s", body)
	}

	cmd.Process.Kill()
	cmd.Wait()
	if err := roundTrip(conn, "hello"); err == nil || timedOut(err) {
		t.Errorf("a stream outlived its relay: %v", err)
	}
	cmd, out = start() // its token is used up: it must not need it
	if err := roundTrip(dial(t, web, tool), "again"); err != nil {
		t.Fatal(err)
	}
	if got := f.Joins.Load(); got != 3 {
		t.Errorf("%d joins, want 3", got)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("relay ended with %v:\n%s", err, out)
	}
}
