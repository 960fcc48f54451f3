package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/testreq"
)

// shopAPI is the API's program in the example's files.
const shopAPI = "/opt/shop/api"

// shop is the three-tier example, with the real programs.
type shop struct {
	*fleet
	dir string // of this test, open to every user
	api string // where the API's program is here
}

// newShop brings the example up to where its README begins: nginx, API and
// PostgreSQL serve, agents run, and there is no policy.
func newShop(t *testing.T) *shop {
	t.Helper()
	testreq.Need(t, "nginx", testreq.PostgreSQL)
	s := &shop{fleet: newFleet(t, example(t, "topology.yaml"))}
	dir, err := os.MkdirTemp("", "weft-shop-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.dir, s.api = dir, filepath.Join(dir, "api")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", s.api, "../examples/three-tier/api")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the API: %v: %s", err, out)
	}
	s.postgres()
	app := s.lab.Host("app")
	s.start("api", app.Container("api"), s.api, "--database", "postgres://postgres@db/postgres?sslmode=disable")
	s.nginx()
	s.wait(15*time.Second, "the shop answers", func() error {
		for _, name := range []string{"api", "nginx", "db"} {
			if err := s.procs[name].alive(); err != nil {
				t.Fatal(err)
			}
		}
		out, err := s.lab.Host("client").Command(s.ctx, "curl", "-sS", "--fail", "--max-time", "2", "http://web/4").CombinedOutput()
		if err == nil && string(out) != "10\n" {
			err = fmt.Errorf("the sum is %q", out)
		}
		return err
	})
	return s
}

// example reads a file of the three-tier example.
func example(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "examples", "three-tier", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// policies are those of the example, about the API's program as it is here.
func (s *shop) policies() string {
	return strings.ReplaceAll(example(s.t, "policies.yaml"), shopAPI, s.api)
}

// postgres makes a database and serves it in the container db, as the user
// postgres: it refuses to run as root.
func (s *shop) postgres() {
	s.t.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		s.t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	data := filepath.Join(s.dir, "db")
	if err := os.Mkdir(data, 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Chown(data, uid, gid); err != nil {
		s.t.Fatal(err)
	}
	as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	initdb := exec.CommandContext(s.ctx, filepath.Join(testreq.PostgreSQLBin(), "initdb"), "-D", data, "-A", "trust", "--no-sync", "--locale=C")
	initdb.Dir, initdb.SysProcAttr = data, as
	if out, err := initdb.CombinedOutput(); err != nil {
		s.t.Fatalf("initdb: %v: %s", err, out)
	}
	s.write(filepath.Join(data, "pg_hba.conf"), "host all all 0.0.0.0/0 trust\n", 0o644)
	cmd := s.lab.Host("app").Container("db").Command(s.ctx, filepath.Join(testreq.PostgreSQLBin(), "postgres"), "-D", data,
		"-c", "listen_addresses=*", "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "shared_buffers=8MB")
	cmd.Dir, cmd.SysProcAttr = data, &syscall.SysProcAttr{Credential: as.Credential}
	p := s.launch("db", cmd)
	// It waits for its clients on SIGTERM, and for nobody on SIGINT.
	s.t.Cleanup(func() {
		p.signal(syscall.SIGINT)
		p.end()
	})
}

// nginx passes what the web machine gets on to the API.
func (s *shop) nginx() {
	s.t.Helper()
	dir := filepath.Join(s.dir, "nginx")
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	conf := filepath.Join(dir, "nginx.conf")
	text := example(s.t, "nginx.conf")
	s.write(conf, strings.ReplaceAll(text, "/run/shop", dir), 0o644)
	s.start("nginx", s.lab.Host("web"), "nginx", "-c", conf, "-e", "stderr")
}
