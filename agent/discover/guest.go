package discover

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/model"
	"weft/wire/wirepb"
)

// markPrefix begins the alias of an interface that is a guest's port (ip link set
// dev vnet0 alias 'weft: name=web labels=app=web'). Only who may configure the
// machine's network can write it, so no guest can.
const markPrefix = "weft:"

// mark is what an alias says.
type mark struct {
	name      string
	labels    map[string]string
	addresses []string
	forwards  bool
	agent     bool
	faults    []string
}

// parseMark reads an alias; ok is whether it is a mark.
func parseMark(alias string) (m mark, ok bool) {
	rest, ok := strings.CutPrefix(alias, markPrefix)
	if !ok {
		return m, false
	}
	m.labels = map[string]string{}
	for _, field := range strings.Fields(rest) {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "name":
			m.name = model.CleanLabelValue(value)
		case "labels":
			m.labels = parseLabels(value)
		case "addresses":
			for part := range strings.SplitSeq(value, ",") {
				a, err := netip.ParseAddr(part)
				if a = a.Unmap(); err != nil || a.Zone() != "" || !a.IsGlobalUnicast() {
					m.faults = append(m.faults, fmt.Sprintf("%q is no address of a guest", part))
					continue
				}
				m.addresses = append(m.addresses, a.String())
			}
		case "forwards":
			m.forwards = true
		case "agent":
			m.agent = true
		default:
			m.faults = append(m.faults, fmt.Sprintf("%q is none of name=, labels=, addresses=, forwards, agent", field))
		}
	}
	return m, true
}

// holder is a hypervisor's process that has a tap open.
type holder struct {
	pid     int
	started string // so that another of that number is not taken for it
	fd      string // of the tap
	name    string // of its guest, as it was when first seen; empty where it has none
	settled bool   // has had its name, and keeps it before others who come with it
}

// labelForwards is set for a guest that sends on what others have sent, labelAgent
// for one with an agent of its own.
const (
	labelForwards = "guest.forwards"
	labelAgent    = "guest.agent"
)

// guests finds the guests of this machine by their ports, and tells links which
// those are.
func (s *scanner) guests(w *walker, links *links) []*wirepb.Workload {
	type port struct {
		name string
		mark mark
		by   *holder
	}
	var ports []port
	var faults []string
	held, err := s.holders(w, links)
	interfaces := map[string]bool{}
	for _, link := range links.all {
		a := link.Attrs()
		interfaces[a.Name] = true
		m, marked := mark{}, false
		if tap := isTap(link); tap || link.Type() == "veth" { // these two never come back from a namespace that ends
			m, marked = parseMark(a.Alias)
		}
		for _, f := range m.faults {
			faults = append(faults, a.Name+": "+f)
		}
		by := held[a.Index]
		if marked || by != nil {
			ports = append(ports, port{a.Name, m, by})
			links.guests[a.Index] = true
		}
	}
	slices.SortFunc(ports, func(a, b port) int {
		if x, y := a.by != nil && a.by.settled, b.by != nil && b.by.settled; x != y {
			if x {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.name, b.name)
	})
	named := map[int]string{} // by process: the name that a mark gives
	taken := map[string]int{} // by name: the process, 0 where a mark has given it
	for _, p := range ports {
		if p.mark.name != "" {
			taken[p.mark.name] = 0
			if p.by != nil {
				named[p.by.pid] = p.mark.name
			}
		}
	}
	found := map[string]*wirepb.Workload{}
	for _, p := range ports {
		name := p.mark.name
		if name == "" && p.by != nil {
			name = cmp.Or(named[p.by.pid], p.by.name)
			pid, is := taken[name]
			if is = is && pid != p.by.pid || interfaces[name] && name != p.name; is && named[p.by.pid] == "" {
				// Another guest of that name, or what a port without one would be
				// called: it goes by its own port, for good.
				name, p.by.name = "", ""
			}
		}
		name = cmp.Or(name, p.name)
		if p.by != nil && p.mark.name == "" && named[p.by.pid] == "" {
			taken[name] = p.by.pid
			named[p.by.pid] = name
			p.by.settled = true
		}
		g := found[name]
		if g == nil {
			g = &wirepb.Workload{Id: "guest/" + name, Kind: string(model.WorkloadGuest), Name: name, Labels: map[string]string{}}
			found[name] = g
		}
		maps.Copy(g.Labels, p.mark.labels)
		if p.mark.forwards {
			g.Labels[labelForwards] = "yes"
		}
		if p.mark.agent {
			g.Labels[labelAgent] = "yes"
		}
		g.Labels["guest.name"] = model.CleanLabelValue(name)
		g.Interfaces = append(g.Interfaces, p.name)
		g.Addresses = append(g.Addresses, p.mark.addresses...)
	}
	for _, g := range found {
		slices.Sort(g.Interfaces)
		slices.Sort(g.Addresses)
		g.Addresses = slices.Compact(g.Addresses)
	}
	switch {
	case err != nil:
		s.d.say("discover.guests", "no: "+err.Error()+"; ports that are marked are found all the same")
	case len(faults) > 0:
		s.d.say("discover.guests", "yes, but marks are not as they should be: "+strings.Join(faults[:min(len(faults), 10)], "; "))
	default:
		s.d.say("discover.guests", "yes")
	}
	return slices.SortedFunc(maps.Values(found), func(a, b *wirepb.Workload) int { return cmp.Compare(a.Id, b.Id) })
}

func isTap(link netlink.Link) bool {
	t, ok := link.(*netlink.Tuntap)
	return ok && t.Mode == netlink.TUNTAP_MODE_TAP
}

// holders finds who holds each tap that is up. What was found is believed for as
// long as that process has the same tap open: its command line is its own to
// change, and what it says later counts for nothing.
func (s *scanner) holders(w *walker, links *links) (map[int]*holder, error) {
	old := s.held
	s.held = map[int]*holder{}
	missing := map[string]int{}
	for _, link := range links.all {
		a := link.Attrs()
		if !isTap(link) || a.RawFlags&unix.IFF_LOWER_UP == 0 {
			continue // nobody has it open
		}
		if h := old[a.Index]; h != nil && s.holds(h, a.Name) {
			s.held[a.Index] = h
			continue
		}
		missing[a.Name] = a.Index
	}
	if len(missing) == 0 {
		return s.held, nil
	}
	var trouble error
	for _, entry := range children(s.proc) {
		pid, err := strconv.Atoi(entry)
		if err != nil {
			continue
		}
		for name, fd := range s.taps(pid) {
			index, ok := missing[name]
			if !ok || s.held[index] != nil || !s.isHypervisor(pid) {
				continue
			}
			// The name is that in the tap's own namespace, which may be another one
			// with a tap of that name.
			ours, err := s.tapIsHere(pid, fd)
			if err != nil {
				trouble = fmt.Errorf("ask whose tap process %d has open: %w", pid, err)
			}
			if ours {
				s.held[index] = &holder{pid: pid, started: s.started(pid), fd: fd, name: s.guestName(w, pid)}
			}
		}
	}
	return s.held, trouble
}

// taps are the names of the taps that a process has open, with a file's number.
func (s *scanner) taps(pid int) map[string]string {
	dir := path.Join(s.proc, strconv.Itoa(pid), "fd")
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	fds, _ := f.Readdirnames(-1)
	var out map[string]string
	for _, fd := range fds {
		if to, err := os.Readlink(path.Join(dir, fd)); err != nil || to != "/dev/net/tun" {
			continue
		}
		if name := s.tapOf(pid, fd); name != "" {
			if out == nil {
				out = map[string]string{}
			}
			out[name] = fd
		}
	}
	return out
}

// tapOf reads which interface an open /dev/net/tun is (drivers/net/tun.c).
func (s *scanner) tapOf(pid int, fd string) string {
	data, err := os.ReadFile(path.Join(s.proc, strconv.Itoa(pid), "fdinfo", fd))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(line, "iff:"); ok {
			return strings.TrimSpace(name)
		}
	}
	return ""
}

func (s *scanner) holds(h *holder, name string) bool {
	return s.started(h.pid) == h.started && s.tapOf(h.pid, h.fd) == name
}

// started is when a process began, in the kernel's own unit.
func (s *scanner) started(pid int) string {
	data, err := os.ReadFile(path.Join(s.proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return ""
	}
	// Field 22, the second being a name in brackets that may hold anything (proc_pid_stat(5)).
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

// hypervisors are the programs that run guests, by the beginning of their file's
// name. Another one that does has a KVM machine open.
var hypervisors = []string{"qemu", "kvm", "cloud-hypervisor", "firecracker", "crosvm", "lkvm"}

func (s *scanner) isHypervisor(pid int) bool {
	dir := path.Join(s.proc, strconv.Itoa(pid))
	exe, err := os.Readlink(path.Join(dir, "exe"))
	if err != nil {
		return false
	}
	if slices.ContainsFunc(hypervisors, func(h string) bool { return strings.HasPrefix(path.Base(exe), h) }) {
		return true
	}
	entries, _ := os.ReadDir(path.Join(dir, "fd"))
	for _, e := range entries {
		if to, _ := os.Readlink(path.Join(dir, "fd", e.Name())); to == "anon_inode:kvm-vm" {
			return true
		}
	}
	return false
}

// tapIsHere says whether the tap that a process has open is in our namespace.
func (s *scanner) tapIsHere(pid int, fd string) (bool, error) {
	number, err := strconv.Atoi(fd)
	if err != nil {
		return false, err
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false, nil // gone
	}
	defer unix.Close(process)
	tap, err := unix.PidfdGetfd(process, number, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(tap)
	const tunGetDevNetNS = 0x54e3 // TUNGETDEVNETNS of linux/if_tun.h
	ns, err := unix.IoctlRetInt(tap, tunGetDevNetNS)
	if err != nil {
		return false, err
	}
	defer unix.Close(ns)
	var theirs, own unix.Stat_t
	if err := unix.Fstat(ns, &theirs); err != nil {
		return false, err
	}
	if err := unix.Stat(s.proc+"/self/ns/net", &own); err != nil {
		return false, err
	}
	return theirs.Ino == own.Ino && theirs.Dev == own.Dev, nil
}

// guestName is what a process's guest is called: by its command line, unless it is
// in a scope that systemd was told to make for a machine of another name.
func (s *scanner) guestName(w *walker, pid int) string {
	data, _ := os.ReadFile(path.Join(s.proc, strconv.Itoa(pid), "cmdline"))
	said := commandName(strings.Split(strings.TrimRight(string(data), "\x00"), "\x00"))
	cgroup, _ := w.cgroupOf(pid)
	if scope := scopeName(cgroup); scope != "" && !sameMachine(scope, said) {
		return model.CleanLabelValue(scope)
	}
	return model.CleanLabelValue(said)
}

// commandName reads -name guest=NAME,… or -name NAME,… (QEMU), --id NAME
// (Firecracker); two commas are one in a name.
func commandName(args []string) string {
	for i, arg := range args {
		flag, value, joined := strings.Cut(arg, "=")
		if flag != "-name" && flag != "--name" && flag != "--id" {
			continue
		}
		if !joined || flag == "-name" {
			if i+1 == len(args) {
				return ""
			}
			value = args[i+1]
		}
		const comma = "\x01"
		value = strings.ReplaceAll(value, ",,", comma)
		for n, part := range strings.Split(value, ",") {
			name, ok := strings.CutPrefix(part, "guest=")
			if ok || n == 0 && !strings.Contains(part, "=") {
				return strings.ReplaceAll(name, comma, ",")
			}
		}
		return ""
	}
	return ""
}

var machineScope = regexp.MustCompile(`^machine-qemu-[0-9]+-(.+)\.scope$`)

// scopeName reads the scope that libvirt has a machine's processes in
// ("machine-qemu\x2d1\x2dweb.scope").
func scopeName(cgroup string) string {
	for part := range strings.SplitSeq(cgroup, "/") {
		if m := machineScope.FindStringSubmatch(unescapeUnit(part)); m != nil {
			return m[1]
		}
	}
	return ""
}

// unescapeUnit undoes systemd-escape(1).
func unescapeUnit(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] == '\\' && i+3 < len(name) && name[i+1] == 'x' {
			if n, err := strconv.ParseUint(name[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(name[i])
	}
	return b.String()
}

// sameMachine says whether a scope is what libvirt makes of a guest's name: without
// what a host's name may not hold, and 64 bytes at most.
func sameMachine(scope, name string) bool {
	plain := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
				return r
			}
			return -1
		}, s)
	}
	a, b := plain(scope), plain(name)
	return a == b || len(scope) > 40 && strings.HasPrefix(b, a)
}
