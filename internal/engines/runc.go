package engines

import (
	"os"
	"os/exec"
	"testing"
)

// RunC runs a container with runc alone, in the namespaces of an engine, and
// leaves it running.
func (e *Engine) RunC(t testing.TB, id, cgroup string) {
	t.Helper()
	spec := `{"ociVersion":"1.0.2","process":{"user":{"uid":0,"gid":0},"args":["/bin/sleep","1000"],"env":["PATH=/bin"],"cwd":"/"},
"root":{"path":"rootfs"},"mounts":[{"destination":"/proc","type":"proc","source":"proc"}],
"linux":{"cgroupsPath":"` + cgroup + `","namespaces":[{"type":"pid"},{"type":"network"},{"type":"mount"},{"type":"ipc"},{"type":"uts"}]}}`
	bundle := e.dir + "/" + id
	if err := os.MkdirAll(bundle+"/rootfs", 0o755); err != nil {
		t.Fatal(err)
	}
	e.write(t, id+"/config.json", spec)
	unpack := exec.Command("tar", "-x", "-C", bundle+"/rootfs")
	unpack.Stdin = rootFS(t)
	output(t, unpack)
	cmd := e.inside(t, "runc", "--root", "/run/runc", "run", "--detach", "--bundle", bundle, id)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	// The container inherits these: a pipe would keep us waiting for its end.
	cmd.Stdin, cmd.Stdout, cmd.Stderr = null, null, null
	if err := cmd.Run(); err != nil {
		t.Fatalf("runc run: %v", err)
	}
}
