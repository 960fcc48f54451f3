package discover

import (
	"bufio"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weft/model"
	"weft/wire/wirepb"
)

// fixedFacts are those that do not change while the agent runs.
func fixedFacts() *wirepb.HostFacts {
	f := &wirepb.HostFacts{Arch: runtime.GOARCH, Cpus: uint32(runtime.NumCPU()), MemoryBytes: memory()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		f.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	release := readOSRelease("/etc/os-release", "/usr/lib/os-release")
	f.Os = release["PRETTY_NAME"]
	f.Labels = map[string]string{"os.arch": f.Arch}
	for key, field := range map[string]string{"os.id": "ID", "os.version": "VERSION_ID"} {
		if v := release[field]; v != "" {
			f.Labels[key] = model.CleanLabelValue(v)
		}
	}
	if f.Kernel != "" {
		f.Labels["os.kernel"] = model.CleanLabelValue(f.Kernel)
	}
	f.Capabilities = probe()
	return f
}

func memory() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return uint64(info.Totalram) * uint64(info.Unit)
}

// readOSRelease reads the first of the files that is there (os-release(5)).
func readOSRelease(files ...string) map[string]string {
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		defer f.Close()
		out := map[string]string{}
		for s := bufio.NewScanner(f); s.Scan(); {
			key, value, ok := strings.Cut(strings.TrimSpace(s.Text()), "=")
			if !ok || strings.HasPrefix(key, "#") {
				continue
			}
			if unquoted, err := strconv.Unquote(value); err == nil {
				value = unquoted
			}
			out[key] = strings.Trim(value, `'"`)
		}
		return out
	}
	return nil
}

// facts puts together what is known at this moment.
func (s *scanner) facts(links *links) *wirepb.HostFacts {
	f := &wirepb.HostFacts{Os: s.fixed.Os, Kernel: s.fixed.Kernel, Arch: s.fixed.Arch, Cpus: s.fixed.Cpus, MemoryBytes: s.fixed.MemoryBytes,
		Interfaces: links.report(), Labels: maps.Clone(s.fixed.Labels), Capabilities: maps.Clone(s.fixed.Capabilities)}
	s.d.parts.mu.Lock()
	maps.Copy(f.Labels, s.d.parts.cloud)
	maps.Copy(f.Capabilities, s.d.parts.troubs)
	maps.Copy(f.Capabilities, s.d.cfg.Capabilities)
	s.d.parts.mu.Unlock()
	if err := s.watch.trouble(); err == nil {
		f.Capabilities["discover.events"] = "yes"
	} else {
		f.Capabilities["discover.events"] = "no: " + err.Error()
	}
	maps.Copy(f.Labels, s.d.cfg.Labels)
	user, faults := readLabelsDir(s.d.cfg.LabelsDir)
	maps.Copy(f.Labels, user)
	if len(faults) == 0 {
		s.faultSince = 0
	} else {
		if s.faultSince == 0 {
			s.faultSince = time.Now().Unix()
		}
		f.Conditions = append(f.Conditions, &wirepb.Condition{Type: "LabelsInvalid", Status: "True", Message: strings.Join(faults, "; "), Since: s.faultSince})
	}
	return f
}

func (t *treeWatch) trouble() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// readLabelsDir reads the files of a directory in the order of their names;
// hidden files and editors' leavings do not count. The faults name file and line.
func readLabelsDir(dir string) (map[string]string, []string) {
	if dir == "-" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil // there need not be one
	}
	labels, faults := map[string]string{}, []string{}
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") {
			continue
		}
		data, err := os.ReadFile(path.Join(dir, name))
		if err != nil {
			faults = append(faults, err.Error())
			continue
		}
		more, bad := parseLabelFile(path.Join(dir, name), string(data))
		maps.Copy(labels, more)
		faults = append(faults, bad...)
	}
	return labels, faults[:min(len(faults), 10)]
}

// parseLabelFile reads "key=value" lines; '#' begins a comment.
func parseLabelFile(file, text string) (map[string]string, []string) {
	labels, faults := map[string]string{}, []string{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		err := model.CheckLabelKey(key)
		if err == nil {
			err = model.CheckLabelValue(value)
		}
		switch {
		case !ok:
			faults = append(faults, file+":"+strconv.Itoa(n)+": want key=value")
		case err != nil:
			faults = append(faults, file+":"+strconv.Itoa(n)+": "+err.Error())
		case len(labels) < maxLabels:
			labels[key] = value
		}
	}
	return labels, slices.Clip(faults)
}

func baseName(p string) string { return path.Base(p) }
