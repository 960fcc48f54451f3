package monitor

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/model"
)

// helperVariable makes this test binary a process that loads a processor and
// holds memory, under a name of its own.
const helperVariable = "WEFT_MONITOR_HELPER"

const held = 96 << 20

func TestMain(m *testing.M) {
	if name := os.Getenv(helperVariable); name != "" {
		work(name)
		return
	}
	os.Exit(m.Run())
}

// work writes a line when it has begun, and goes on until its input ends.
func work(name string) {
	runtime.GOMAXPROCS(2)
	runtime.LockOSThread()
	if err := os.WriteFile("/proc/self/comm", []byte(name), 0); err != nil {
		panic(err)
	}
	memory := make([]byte, held)
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	fmt.Println("begun")
	go func() {
		os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}()
	for i := 0; ; i++ {
		memory[i%held]++
	}
}

// begin starts the helper and waits until it works.
func begin(t *testing.T, name string) int {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperVariable+"="+name)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func find(s *model.Sample, pid int) *model.ProcessUse {
	for i := range s.Processes {
		if s.Processes[i].PID == pid {
			return &s.Processes[i]
		}
	}
	return nil
}

// ticks reads how much processor time a process has used, by other means than the
// monitor's.
func ticks(t *testing.T, pid int) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return float64(user+system) / 100
}

// What a process uses is what /proc says of it, read by others at about the same
// time: within a second's work.
func TestSampleIsWhatProcSays(t *testing.T) {
	pid := begin(t, "a b) R 1 (c")
	m := New(Config{}, Deps{})
	if _, err := m.Sample(); err != nil {
		t.Fatal(err)
	}
	used, began := ticks(t, pid), time.Now()
	time.Sleep(1500 * time.Millisecond)
	s, err := m.Sample()
	if err != nil {
		t.Fatal(err)
	}
	want := (ticks(t, pid) - used) / time.Since(began).Seconds() * 100
	p := find(s, pid)
	if p == nil {
		t.Fatal("the process is not in the sample")
	}
	second := 100 / s.Seconds // what a second more or less would make of it
	if math.Abs(p.CPU-want) > second {
		t.Errorf("it uses %.1f %%, /proc says %.1f %%", p.CPU, want)
	}
	if p.CPU <= 0 || p.Name != "a b) R 1 (c" || p.Threads < 2 || p.Parent != os.Getpid() {
		t.Errorf("the process is %+v", *p)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	if p.Memory < held || math.Abs(float64(p.Memory)-kib*1024) > 16<<20 { // the kernel counts it for each processor
		t.Errorf("it holds %d bytes, /proc says %.0f, and allocated were %d", p.Memory, kib*1024, held)
	}
	if !strings.HasPrefix(p.Command, os.Args[0]) {
		t.Errorf("its command is %q", p.Command)
	}
	if s.CPU.Busy() <= 0 || len(s.Cores) != runtime.NumCPU() && len(s.Cores) == 0 {
		t.Errorf("the machine is idle: %+v, %d cores", s.CPU, len(s.Cores))
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	if s.Memory.Total != info.Totalram*uint64(info.Unit) || s.Memory.Used() == 0 {
		t.Errorf("memory is %+v, sysinfo(2) says %d", s.Memory, info.Totalram)
	}
	if math.Abs(s.Load.One-float64(info.Loads[0])/65536) > 1 {
		t.Errorf("load is %v, sysinfo(2) says %.2f", s.Load, float64(info.Loads[0])/65536)
	}
	if math.Abs(s.Uptime-float64(info.Uptime)) > 2 {
		t.Errorf("uptime is %f, sysinfo(2) says %d", s.Uptime, info.Uptime)
	}
	if !slices.ContainsFunc(s.Interfaces, func(i model.InterfaceUse) bool { return i.Name == "lo" }) {
		t.Errorf("interfaces are %+v", s.Interfaces)
	}
	if !slices.ContainsFunc(s.Filesystems, func(f model.FilesystemUse) bool { return f.Mount == "/" }) {
		t.Logf("no file system at /: %+v", s.Filesystems)
	}
}

// A process that ends leaves the sample, and a process that is new is charged with
// all that it has used.
func TestProcessesComeAndGo(t *testing.T) {
	m := New(Config{}, Deps{})
	if _, err := m.Sample(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	pid := begin(t, "short")
	for ticks(t, pid) < 0.3 {
		time.Sleep(10 * time.Millisecond)
	}
	s, err := m.Sample()
	if err != nil {
		t.Fatal(err)
	}
	p := find(s, pid)
	if p == nil || p.CPU < 0.3/time.Since(began).Seconds()*100*0.9 {
		t.Fatalf("a new process that used 0.3 s, uptime %f: %+v", s.Uptime, p)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var w unix.Siginfo
	if err := unix.Waitid(unix.P_PID, pid, &w, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if s, err = m.Sample(); err != nil {
		t.Fatal(err)
	}
	if p = find(s, pid); p == nil || p.State != "Z" || p.Memory != 0 {
		t.Fatalf("a dead process nobody waited for: %+v", p)
	}
}

// tree is a made-up /proc: what a test writes is what the machine says.
type tree struct {
	t    *testing.T
	root string
}

func newTree(t *testing.T) *tree {
	x := &tree{t, t.TempDir()}
	x.write("stat", "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 100 0 100 800 0 0 0 0 0 0\nintr 1\n")
	return x
}

func (x *tree) write(name, text string) {
	x.t.Helper()
	path := filepath.Join(x.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		x.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		x.t.Fatal(err)
	}
}

func (x *tree) process(pid int, name string, ticks, started int) {
	x.write(fmt.Sprintf("%d/stat", pid), fmt.Sprintf("%d (%s) S 1 1 1 0 -1 0 5 0 0 0 %d 0 0 0 20 0 3 0 %d 1000 7 0 0", pid, name, ticks, started))
	x.write(fmt.Sprintf("%d/status", pid), "Name:\tx\nUid:\t0\t0\t0\t0\n")
	x.write(fmt.Sprintf("%d/cmdline", pid), "/bin/"+name+"\x00--flag\x00")
	x.write(fmt.Sprintf("%d/cgroup", pid), "0::/system.slice/x.service/sub\n")
	x.write(fmt.Sprintf("%d/io", pid), "rchar: 1\nread_bytes: 4096\nwrite_bytes: 0\n")
}

// A process that takes another's number is another one, and counters that go back
// give no rate.
func TestNumbersAreReused(t *testing.T) {
	x := newTree(t)
	x.process(7, "one", 1_000_000, 5)
	x.write("diskstats", "8 0 sda 100 0 1000 0 50 0 500 0 0 10 0\n")
	x.write("net/dev", "head |\n eth0: 1000 10 0 0 0 0 0 0 2000 20 0 0 0 0 0 0\n")
	m := New(Config{Proc: x.root, Sys: x.root}, Deps{})
	x.write("block/sda/size", "1")
	if _, err := m.Sample(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	x.process(7, "two", 3, 6)
	x.write("diskstats", "8 0 sda 1 0 10 0 5 0 5 0 0 1 0\n")
	x.write("net/dev", "head |\n eth0: 10 1 0 0 0 0 0 0 20 2 0 0 0 0 0 0\n")
	x.write("stat", "cpu  50 0 50 400 0 0 0 0 0 0\ncpu0 50 0 50 400 0 0 0 0 0 0\n")
	s, err := m.Sample()
	if err != nil {
		t.Fatal(err)
	}
	p := find(s, 7)
	if p == nil || p.CPU != 0 || p.Name != "two" || p.Command != "/bin/two --flag" || p.User != "root" || p.Threads != 3 || p.Workload != "x.service" {
		t.Errorf("the second process of the number is %+v", p)
	}
	if d := s.Disks[0]; d.ReadBytes != 0 || d.Writes != 0 || d.Busy != 0 {
		t.Errorf("a disk whose counters went back: %+v", d)
	}
	if d := s.Interfaces[0]; d.ReceivedBytes != 0 || d.SentPackets != 0 {
		t.Errorf("an interface whose counters went back: %+v", d)
	}
	if s.CPU != (model.CPUUse{}) {
		t.Errorf("processors whose counters went back: %+v", s.CPU)
	}
	if len(s.Workloads) != 1 || s.Workloads[0].Name != "x.service" || s.Workloads[0].Processes != 1 || s.Workloads[0].ID != "/system.slice/x.service" {
		t.Errorf("workloads are %+v", s.Workloads)
	}
	if err := os.RemoveAll(filepath.Join(x.root, "7")); err != nil {
		t.Fatal(err)
	}
	if s, err = m.Sample(); err != nil || len(s.Processes) != 0 {
		t.Errorf("after it went: %v, %+v", err, s.Processes)
	}
	if s, err = m.Sample(); err != nil || len(s.Workloads) != 0 {
		t.Errorf("after its unit went: %v, %+v", err, s.Workloads)
	}
}

// Containers and units are known by the paths of either version of cgroups.
func TestWorkloadsByCgroup(t *testing.T) {
	id := strings.Repeat("ab", 32)
	for file, want := range map[string]string{
		"0::/system.slice/nginx.service\n":                                          "nginx.service",
		"0::/system.slice/docker-" + id + ".scope\n":                                id[:12],
		"0::/system.slice/docker-" + id + ".scope/init.scope\n":                     id[:12],
		"12:memory:/docker/" + id + "\n5:cpu,cpuacct:/docker/" + id + "\n0::/\n":    id[:12],
		"1:name=systemd:/system.slice/cron.service\n4:memory:/system.slice\n0::/\n": "cron.service",
		"0::/lxc.payload.web/system.slice/nginx.service\n":                          "web",
		"0::/../../x.service\n":                                                     "",
		"0::/user.slice/session-1.scope\n":                                          "",
		"0::/\n":                                                                    "", "": "", "nonsense": "", "::": "",
	} {
		w := &workloads{in: &reader{}, all: map[string]*workload{}, roots: map[string]int{}}
		got := ""
		if x := w.place([]byte(file)); x != nil {
			got = x.Name
		}
		if got != want {
			t.Errorf("%q is in %q, want %q", file, got, want)
		}
	}
}

func TestMounts(t *testing.T) {
	got := parseMounts([]byte(`22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 8:1 /sub /very/long rw - ext4 /dev/sda1 rw
24 22 0:21 / /proc rw - proc proc rw
25 22 0:40 / /mnt/nfs rw - nfs4 server:/x rw
26 22 8:2 / /with\040space\134 rw shared:1 - xfs /dev/sda2 rw
nonsense
`))
	want := []mount{{"8:1", "/", "/dev/sda1", "ext4"}, {"8:2", `/with space\`, "/dev/sda2", "xfs"}}
	if !slices.Equal(got, want) {
		t.Errorf("mounts are %+v, want %+v", got, want)
	}
}

// A process that was there before costs no allocation.
func TestSteadyStateDoesNotAllocate(t *testing.T) {
	x := newTree(t)
	for pid := 10; pid < 210; pid++ {
		x.process(pid, "idle", pid, 5)
	}
	p := newProcesses(x.root, &reader{}, (&workloads{in: &reader{}, all: map[string]*workload{}, roots: map[string]int{}}).place)
	at := 1000.0
	sample := func() {
		if err := p.sample(2, at, at-2); err != nil {
			t.Fatal(err)
		}
		at += 2
	}
	for range 2 * turns {
		sample()
	}
	if n := testing.AllocsPerRun(2*turns, sample); n > 4 {
		t.Errorf("a sample of 200 processes makes %.1f allocations", n)
	}
}

func FuzzParsers(f *testing.F) {
	f.Add([]byte("1 (a) b) S 1 1 1 0 -1 0 5 0 0 0 7 0 0 0 20 0 3 0 99 1000 7 0 0"))
	f.Add([]byte("8 0 sda 100 0 1000 0 50 0 500 0 0 10 0"))
	f.Add([]byte(" eth0: 1000 10 0 0 0 0 0 0 2000 20 0 0 0 0 0 0"))
	f.Add([]byte("some avg10=0.12 avg60=1\nfull avg10=3.4"))
	f.Add([]byte(`22 1 8:1 / /a\040b rw - ext4 /dev/sda1 rw`))
	f.Add([]byte("8:0 rbytes=1 wbytes=2\n8:0 Read 5\n0::/system.slice/x.service\n"))
	f.Add([]byte("cpu 1 2 3 4 5 6 7 99999999999999999999999"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := parseStat(b); ok && (s.parent < 0 || s.threads < 0 || len(s.comm) > len(b)) {
			t.Errorf("%q is %+v", b, s)
		}
		spent(parseCPU(b), cpuTimes{})
		parseDisk(b)
		if name, _, ok := parseDevice(b); ok && len(name) > len(b) {
			t.Error("a name longer than the line")
		}
		if some, full := parsePressure(b); some < 0 || full < 0 {
			t.Error("less than no pressure")
		}
		for _, m := range parseMounts(b) {
			if !strings.HasPrefix(m.dir, "/") {
				t.Errorf("a mount at %q", m.dir)
			}
		}
		parseIOStat(b)
		parseBlkio(b)
		field(b, "Uid")
		signed(b)
		unescape(b)
		entry(b)
		(&workloads{in: &reader{}, all: map[string]*workload{}, roots: map[string]int{}}).place(b)
	})
}
