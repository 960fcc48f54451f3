// Package stockkernel runs tests of a tap's two ends, and of what judges and meters, on
// the kernel that a fresh Debian 12 has, in a virtual machine without hardware help. It
// downloads 27 MB and takes minutes, so it runs only where it is asked for:
//
//	WEFT_STOCK_KERNEL=apt go test -v -timeout 30m ./agent/stockkernel
//	WEFT_STOCK_KERNEL=linux-image-6.1.0-…-cloud-amd64_….deb go test -v -timeout 30m ./agent/stockkernel
package stockkernel

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"weft/internal/testreq"
)

const kernelEnv = "WEFT_STOCK_KERNEL"

// modules in the order in which they can be loaded; paths end in .ko, with or
// without a compression's suffix.
var modules = []string{"llc", "stp", "bridge", "veth", "sch_ingress", "cls_bpf", "cls_u32", "act_gact", "libcrc32c", "nfnetlink", "nf_tables",
	"nf_defrag_ipv4", "nf_defrag_ipv6", "nf_conntrack", "nf_nat", "nft_chain_nat", "nft_nat", "nft_masq", "tun"}

// tools are the programs that the tests run.
var tools = []string{"sh", "ip", "tc", "nsenter", "tcpdump", "ping", "socat", "head", "awk", "sysctl", "nft", "sleep", "cat", "mktemp", "rm"}

// runs are the tests: a package, and which of its tests. What would take long
// and has little to do with the kernel is left out.
var runs = []struct{ pkg, pattern string }{
	{"./internal/tchook", "."},
	{"./agent/capture/bpf", "."},
	{"./agent/deliver", "."},
	{"./agent/capture", "Arrives|Kills|Leaves|ComeAndGo|Keep|Filter|Duplicates|Tagged|Own|Foreign|WithoutPins"},
	{"./agent/datapath/bpf", "ProgramsLoad/(policy|guest|drops)|MapsAreExchanged|HellosAre|DropsAre|PortsCome|LinesThatCome|Forgets|OptionForged|TestGuestFrames|GuestEqualsReference"},
}

func TestTheStockKernel(t *testing.T) {
	deb := os.Getenv(kernelEnv)
	if deb == "" {
		t.Skipf("downloads a kernel and takes minutes; set %s=apt to run it", kernelEnv)
	}
	testreq.Need(t, append([]string{"qemu-system-x86_64", "dpkg-deb", "ldd", "go"}, tools...)...)
	work := t.TempDir()
	if deb == "apt" {
		deb = download(t, work)
	}
	sh(t, work, "dpkg-deb", "-x", deb, filepath.Join(work, "kernel"))
	vmlinuz := one(t, filepath.Join(work, "kernel/boot/vmlinuz-*"))
	initramfs := build(t, work)

	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048",
		"-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", vmlinuz, "-initrd", initramfs,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off rdinit=/init")
	var console bytes.Buffer
	var to io.Writer = &console
	if testing.Verbose() {
		to = io.MultiWriter(&console, os.Stdout)
	}
	cmd.Stdout, cmd.Stderr = to, to // the same, or two copiers would write at once
	began := time.Now()
	err := cmd.Run()
	out := strings.ReplaceAll(console.String(), "\r", "")
	kernel := regexp.MustCompile(`(?m)^VMINIT kernel: (.*)$`).FindStringSubmatch(out)
	if err != nil || kernel == nil || !strings.Contains(out, "VMINIT end: <nil>") {
		t.Fatalf("the machine did not come to its end: %v\n%s", err, tail(out))
	}
	for _, r := range runs {
		name := binary(r.pkg)
		if !strings.Contains(out, "VMINIT run: "+name+": <nil>\n") {
			t.Errorf("%s failed:\n%s", r.pkg, tail(out))
		}
	}
	t.Logf("Linux %s: %d tests passed in %v", kernel[1], len(regexp.MustCompile(`(?m)^--- PASS: `).FindAllString(out, -1)), time.Since(began).Round(time.Second))
	if n := strings.Count(out, "--- PASS: TestEveryPacketArrivesAsTheWireWouldCarryIt"); n == 0 {
		t.Error("the end-to-end test did not run")
	}
}

// download gets the package of the present cloud kernel; nothing is installed.
func download(t *testing.T, dir string) string {
	t.Helper()
	testreq.Need(t, "apt-get", "apt-cache")
	name := regexp.MustCompile(`Depends: (linux-image-\S+)`).FindStringSubmatch(sh(t, dir, "apt-cache", "depends", "linux-image-cloud-amd64"))
	if name == nil {
		t.Fatal("apt knows no linux-image-cloud-amd64; run apt-get update")
	}
	sh(t, dir, "apt-get", "download", name[1])
	return one(t, filepath.Join(dir, "linux-image-*.deb"))
}

func binary(pkg string) string { return "/vm/" + strings.ReplaceAll(pkg[2:], "/", "-") + ".test" }

// build makes the initramfs: our own first process, the tests, the programs
// they run with their libraries, and the modules.
func build(t *testing.T, work string) string {
	t.Helper()
	path := filepath.Join(work, "initramfs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a := newArchive(f)
	for _, d := range []string{"/proc", "/sys", "/dev", "/tmp", "/run", "/etc"} {
		a.dir(d)
	}
	a.link("/var/run", "/run")
	root := filepath.Join("..", "..")
	sh(t, root, "go", "build", "-o", filepath.Join(work, "init"), "./agent/stockkernel/vminit")
	a.file("/init", filepath.Join(work, "init"))

	var list strings.Builder
	for _, r := range runs {
		out := filepath.Join(work, filepath.Base(binary(r.pkg)))
		sh(t, root, "go", "test", "-c", "-o", out, r.pkg)
		a.file(binary(r.pkg), out)
		list.WriteString(binary(r.pkg) + " -test.v -test.timeout=24m -test.run=" + r.pattern + "\n")
	}
	a.bytes("/vm/runs", 0o644, []byte(list.String()))
	list.Reset()
	for _, m := range modules {
		found := find(t, filepath.Join(work, "kernel/lib/modules"), m)
		a.bytes("/vm/"+m+".ko", 0o644, decompress(t, found))
		list.WriteString(m + ".ko\n")
	}
	a.bytes("/vm/modules", 0o644, []byte(list.String()))
	closure(t, a)
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// closure puts the tools and the libraries they name into the archive.
func closure(t *testing.T, a *archive) {
	t.Helper()
	have := make(map[string]bool)
	for _, tool := range tools {
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		a.file("/usr/bin/"+tool, path) // follows the links of /etc/alternatives
		for _, lib := range regexp.MustCompile(`(?m)(/\S+) \(0x`).FindAllStringSubmatch(sh(t, "", "ldd", path), -1) {
			if !have[lib[1]] {
				have[lib[1]] = true
				a.file(lib[1], lib[1])
			}
		}
	}
	a.link("/bin/sh", "/usr/bin/sh")
}

func find(t *testing.T, dir, module string) string {
	t.Helper()
	var found string
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), module+".ko") {
			found = path
		}
		return err
	})
	if found == "" {
		t.Fatalf("the package has no module %s", module)
	}
	return found
}

// decompress returns a module as the kernel wants it.
func decompress(t *testing.T, path string) []byte {
	t.Helper()
	tool := map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"}[filepath.Ext(path)]
	if tool == "" {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	testreq.Need(t, tool)
	return []byte(sh(t, "", tool, "-dc", path))
}

func sh(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, stderr.String())
	}
	return string(out)
}

func one(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %d files, %v", pattern, len(found), err)
	}
	return found[0]
}

func tail(s string) string { return s[max(0, len(s)-20000):] }
