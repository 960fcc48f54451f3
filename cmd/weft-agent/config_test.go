package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Bad configurations lie in testdata beside the exact message: the first line of
// each, after "# ".
func TestBadConfigurations(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bad.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(data), "\n")
			want := strings.TrimPrefix(first, "# ")
			c, err := decodeConfig(filepath.Base(file), data)
			if err == nil {
				err = c.check()
			}
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

func TestFlagsGoOverTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte("controller: https://a:1\nname: one\nlabels: {app: web, env: prod}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := agentCommand(t, "run", "--config", file, "--name", "two", "--labels", "env=stage,x=y", "--print-config")
	for _, want := range []string{"controller: https://a:1", "name: two", "app: web", "env: stage", "x: \"y\"", "stateDir: /var/lib/weft-agent"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if out := agentCommand(t, "run", "--config", file, "--check"); out != "configuration ok\n" {
		t.Errorf("check: %s", out)
	}
	if out := agentCommand(t, "run", "--config", file+"x"); !strings.Contains(out, "no such file") {
		t.Errorf("a file that is named must be there: %s", out)
	}
}

func TestInstallAndUninstallBelowARoot(t *testing.T) {
	root := t.TempDir()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := agentCommand(t, "install", "--root", root, "--controller", "https://weft.example:7443", "--token-file", token, "--labels", "app=web")
	config, err := os.ReadFile(filepath.Join(root, "etc/weft/agent.yaml"))
	if err != nil || !strings.Contains(string(config), "tokenFile: /etc/weft/join-token") || !strings.Contains(string(config), "app: web") || strings.Contains(string(config), "name:") {
		t.Fatalf("config: %v\n%s\n%s", err, config, out)
	}
	if st, err := os.Stat(filepath.Join(root, "etc/weft/join-token")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("token: %v, %v", st, err)
	}
	unit := filepath.Join(root, "etc/systemd/system/weft-agent.service")
	text, err := os.ReadFile(unit)
	if err != nil || !strings.Contains(string(text), "ExecStart=/usr/local/bin/weft-agent run --config /etc/weft/agent.yaml") {
		t.Errorf("unit: %v\n%s", err, text)
	}
	if verify, err := exec.LookPath("systemd-analyze"); err == nil {
		if out, err := exec.Command(verify, "verify", "--root="+root, unit).CombinedOutput(); err != nil {
			t.Logf("systemd-analyze: %v %s", err, out)
		}
	}
	if out := agentCommand(t, "install", "--root", root, "--controller", "https://other:1"); !strings.Contains(out, "keep") || !strings.Contains(out, "names the controller https://weft.example:7443") {
		t.Errorf("another controller: %s", out)
	}
	agentCommand(t, "uninstall", "--root", root)
	if _, err := os.Stat(unit); err == nil {
		t.Error("unit is left")
	}
	if _, err := os.Stat(filepath.Join(root, "etc/weft/agent.yaml")); err != nil {
		t.Error("configuration is removed without --purge")
	}
	agentCommand(t, "uninstall", "--root", root, "--purge")
	left := 0
	filepath.WalkDir(root, func(_ string, d os.DirEntry, _ error) error {
		if !d.IsDir() {
			left++
		}
		return nil
	})
	if left != 0 {
		t.Errorf("%d files left", left)
	}
}
