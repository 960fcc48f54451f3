package bpf

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"weft/model"
)

// ancestors is that of maps.h: how deep below the root of the tree a cgroup that
// a policy names may be.
const ancestors = 8

// cgroup is a directory of the tree as programs know it.
type cgroup struct {
	id    uint64
	level int // 0 is the root of the whole tree
}

// findCgroup looks a directory up. A cgroup's id is its inode (kernfs).
func findCgroup(dir string) (cgroup, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return cgroup{}, fmt.Errorf("look at cgroup %s: %w", dir, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return cgroup{}, fmt.Errorf("look at cgroup %s: not in a cgroup2 tree", dir)
	}
	out := cgroup{id: st.Ino}
	for at := filepath.Clean(dir); at != "/"; out.level++ {
		up := filepath.Dir(at)
		if err := unix.Statfs(up, &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
			return out, nil
		}
		at = up
	}
	return out, nil
}

// resolve says how the programs recognise a process. One that names somebody who
// is not on this machine is recognised by nothing.
func (d *Driver) resolve(p model.PolicyProcess) (policyCondition, error) {
	var out policyCondition
	if p.Exe != "" {
		n, err := d.pathNumber(p.Exe)
		if err != nil {
			return out, err
		}
		out.Flags |= condExe
		out.Exe = n
	}
	if p.User != "" {
		u, err := user.Lookup(p.User)
		if err != nil {
			return policyCondition{Flags: condNever}, nil
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return policyCondition{Flags: condNever}, nil
		}
		out.Flags |= condUser
		out.Uid = uint32(uid)
	}
	if p.Cgroup != "" {
		c, err := findCgroup(filepath.Join(d.cfg.CgroupRoot, p.Cgroup))
		if errors.Is(err, os.ErrNotExist) {
			return policyCondition{Flags: condNever}, nil
		}
		if err != nil {
			return out, err
		}
		if c.level >= ancestors {
			return out, fmt.Errorf("cgroup %s is %d levels below the root; %d at most", p.Cgroup, c.level, ancestors-1)
		}
		out.Flags |= condCgroup
		out.Level, out.Cgroup = uint32(c.level), c.id
	}
	return out, nil
}

// userNumbers is where the numbers begin that user space gives to paths.
const userNumbers = 1 << 31

// pathKey writes a path as process.h does: last component first.
func pathKey(path string) (policyPath, error) {
	var out policyPath
	parts := strings.Split(strings.Trim(path, "/"), "/")
	at := 0
	for i := len(parts) - 1; i >= 0; i-- {
		if at+len(parts[i])+1 >= len(out.Name) {
			return out, fmt.Errorf("the path %s is longer than %d bytes", path, len(out.Name)-1)
		}
		for _, b := range []byte(parts[i] + "/") {
			out.Name[at] = int8(b)
			at++
		}
	}
	return out, nil
}

// readPath is the way back.
func readPath(k *policyPath) string {
	raw := make([]byte, 0, len(k.Name))
	for _, b := range k.Name {
		if b == 0 {
			break
		}
		raw = append(raw, byte(b))
	}
	parts := strings.Split(strings.TrimSuffix(string(raw), "/"), "/")
	var b strings.Builder
	for i := len(parts) - 1; i >= 0; i-- {
		b.WriteString("/" + parts[i])
	}
	return b.String()
}

// pathNumber returns the number of an executable's path, and gives it one where
// no program has done so yet.
func (d *Driver) pathNumber(path string) (uint32, error) {
	key, err := pathKey(path)
	if err != nil {
		return 0, err
	}
	m := d.objects.Paths
	var n uint32
	for range 2 {
		if err := m.Lookup(&key, &n); err == nil {
			return n, nil
		}
		d.lastPath++
		n = d.lastPath
		if err = m.Update(&key, &n, ebpf.UpdateNoExist); err == nil {
			return n, nil
		} else if !errors.Is(err, ebpf.ErrKeyExist) {
			return 0, fmt.Errorf("number the path %s: %w", path, err)
		}
	}
	return 0, fmt.Errorf("number the path %s: it comes and goes", path)
}
