// Package clickhousetest runs a ClickHouse server of its own, for tests and
// benchmarks: in a directory, on loopback, as a child that ends with its parent.
package clickhousetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/testreq"
)

// Program is the server as Debian has it.
const Program = "clickhouse-server"

// Server is a running server.
type Server struct {
	URL string // of its HTTP interface

	dir   string
	cmd   *exec.Cmd
	out   bytes.Buffer
	ended chan struct{}
}

const config = `<yandex>
<logger><level>warning</level><console>1</console></logger>
<listen_host>127.0.0.1</listen_host><http_port>%s</http_port>
<path>%s/</path><tmp_path>%[2]s/tmp/</tmp_path>
<mark_cache_size>67108864</mark_cache_size>
<users_config>users.xml</users_config><default_profile>default</default_profile><default_database>default</default_database>
</yandex>
`

const users = `<yandex><profiles><default></default></profiles><quotas><default></default></quotas>
<users><default><password></password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default></users>
</yandex>
`

// Start starts a server that keeps what it has in a directory. It is up when Start
// returns.
func Start(ctx context.Context, dir string) (*Server, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		s, err := start(ctx, dir)
		if err == nil || try == 3 || ctx.Err() != nil {
			return s, err
		}
		// Somebody may have taken the port in between.
	}
}

func start(ctx context.Context, dir string) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("find a free port: %w", err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if err := l.Close(); err != nil {
		return nil, err
	}
	s := &Server{URL: "http://127.0.0.1:" + port, dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o700); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{"config.xml": fmt.Sprintf(config, port, dir), "users.xml": users} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	return s, s.Run(ctx)
}

// Run starts the server again, after Kill.
func (s *Server) Run(ctx context.Context) error {
	s.out.Reset()
	s.cmd = exec.Command(Program, "--config-file="+filepath.Join(s.dir, "config.xml"))
	s.cmd.Dir = s.dir
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	s.ended = ended
	go func() {
		// The server ends with the thread that started it: that one is to stay.
		runtime.LockOSThread()
		defer close(ended)
		err := s.cmd.Start()
		started <- err
		if err == nil {
			s.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", Program, err)
	}
	for {
		resp, err := http.Get(s.URL + "/ping")
		if err == nil {
			resp.Body.Close()
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("%s ended: %s", Program, s.out.Bytes())
		case <-ctx.Done():
			s.Kill()
			return errors.Join(ctx.Err(), errors.New(s.out.String()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Kill ends the server at once.
func (s *Server) Kill() {
	s.cmd.Process.Kill()
	<-s.ended
}

// Remove ends the server, and what it keeps.
func (s *Server) Remove() error {
	s.Kill()
	return os.RemoveAll(s.dir)
}

// For starts a server for a test.
func For(t testing.TB) *Server {
	t.Helper()
	testreq.Need(t, Program)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := Start(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Kill() })
	return s
}

// Bytes is what all tables take on disk, without what was merged into others and
// is to be removed.
func (s *Server) Bytes() (int64, error) {
	resp, err := http.Post(s.URL, "", strings.NewReader("SELECT SUM(bytes) FROM system.parts WHERE active"))
	if err != nil {
		return 0, fmt.Errorf("ask for the size of tables: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil || resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("ask for the size of tables: %s: %s", resp.Status, text)
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// PID is the server's.
func (s *Server) PID() int { return s.cmd.Process.Pid }
