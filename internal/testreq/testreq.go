// Package testreq chooses which tests can run here. A test names what it
// needs; where that is missing it is skipped, and where WEFT_REQUIRE lists it
// (as CI does) it fails instead, so that a missing install never hides.
package testreq

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The things a test may need.
const (
	Root    = "root"    // uid 0 with CAP_SYS_ADMIN
	NetNS   = "netns"   // may make network namespaces
	BPF     = "bpf"     // may load BPF programs; implies root
	Cgroup2 = "cgroup2" // a cgroup2 tree is mounted
	// DropReasons is a kernel that says why it drops packets: 5.17 with BTF.
	DropReasons = "drop-reasons"
	// PostgreSQL is the server as Debian installs it, which is not on PATH; see
	// PostgreSQLBin.
	PostgreSQL = "postgresql"
)

var probes = map[string]func() string{
	Root: func() string {
		if os.Geteuid() != 0 {
			return "not root"
		}
		return ""
	},
	NetNS: func() string {
		if os.Geteuid() != 0 {
			return "not root"
		}
		if _, err := os.Stat("/proc/self/ns/net"); err != nil {
			return err.Error()
		}
		return ""
	},
	BPF: func() string {
		if os.Geteuid() != 0 {
			return "not root"
		}
		if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
			return "kernel has no BTF"
		}
		return ""
	},
	Cgroup2: func() string {
		for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			var st unix.Statfs_t
			if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
				return ""
			}
		}
		return "no cgroup2 tree"
	},
	DropReasons: func() string {
		if types, err := os.ReadFile("/sys/kernel/btf/vmlinux"); err != nil || !bytes.Contains(types, []byte("\x00skb_drop_reason\x00")) {
			return "the kernel's BTF has no skb_drop_reason"
		}
		return ""
	},
	PostgreSQL: func() string {
		if PostgreSQLBin() == "" {
			return "no /usr/lib/postgresql/*/bin/postgres"
		}
		return ""
	},
}

// Need skips the test unless everything named is here. A name that is none of
// the constants is a program that must be on PATH. Where WEFT_REQUIRE holds
// the name, or "all", the test fails instead.
func Need(t testing.TB, names ...string) {
	t.Helper()
	required := strings.Split(os.Getenv("WEFT_REQUIRE"), ",")
	for _, name := range names {
		why := missing(name)
		if why == "" {
			continue
		}
		if slices.Contains(required, name) || slices.Contains(required, "all") {
			t.Fatalf("needs %s, which WEFT_REQUIRE says is here: %s", name, why)
		}
		t.Skipf("needs %s: %s", name, why)
	}
}

func missing(name string) string {
	if probe, ok := probes[name]; ok {
		return probe()
	}
	if _, err := exec.LookPath(name); err != nil {
		return "not on PATH"
	}
	return ""
}

// PostgreSQLBin is the directory of the newest PostgreSQL that Debian's packages
// have installed; empty where there is none.
func PostgreSQLBin() string {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return ""
	}
	return filepath.Dir(slices.Max(found))
}
