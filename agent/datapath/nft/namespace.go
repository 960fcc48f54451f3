package nft

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"weft/agent/datapath"
	"weft/model"
)

// nsID is what a network namespace is known by: its file's device and inode.
type nsID struct{ dev, ino uint64 }

// namespace is a network namespace with subjects, and what we have put there.
type namespace struct {
	id   nsID
	path string
	file *os.File
	plan *plan
	// loaded is what is in the kernel; nil where that is not known.
	loaded *loaded
	// gone are counts of verdicts that are not in the kernel any more.
	gone map[outcome]counted

	members []member // those told by cgroup
	base    *member
	cgroups map[uint64]bool // that labels of the epoch may name
	epoch   uint32
}

// loaded is the content of our table.
type loaded struct {
	shape    shape
	content  content
	outcomes map[uint32]outcome
	logs     map[string]bool // chains
	digest   [32]byte        // of the rules as the kernel lists them
}

type counted struct{ connections, packets, bytes uint64 }

// openNamespace opens a namespace by path; nil where there is none any more.
func openNamespace(path string) (*namespace, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("look at network namespace %s: %w", path, err)
	}
	return &namespace{id: nsID{st.Dev, st.Ino}, path: path, file: f, plan: newPlan(), gone: map[outcome]counted{}, epoch: 1}, nil
}

// place divides subjects into those told by their cgroup and the one that has
// the rest: the machine itself, or, in a namespace of its own, the only subject
// or else that with the shortest cgroup.
func (n *namespace) place(subjects []*datapath.Subject, own bool, tree *cgroupTree) error {
	n.members, n.base = nil, nil
	var errs []error
	list := slices.Clone(subjects)
	slices.SortFunc(list, func(a, b *datapath.Subject) int {
		if c := len(a.Cgroup) - len(b.Cgroup); c != 0 {
			return c
		}
		if a.Workload < b.Workload {
			return -1
		}
		return 1
	})
	for i, s := range list {
		if own && s.Kind == model.WorkloadHost || !own && i == 0 {
			if n.base == nil {
				n.base = &member{subject: s}
				continue
			}
		}
		m := member{subject: s}
		if s.Cgroup == "" || tree == nil {
			errs = append(errs, fmt.Errorf("%s shares its network namespace and no cgroup2 tells it apart; mount the tree, or give it a cgroup", s.Workload))
			continue
		}
		var err error
		if m.cgroup, m.level, err = tree.locate(s.Cgroup); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Workload, err))
			continue
		}
		if m.cgroup != 0 {
			n.members = append(n.members, m)
		}
	}
	n.nextEpoch(list)
	return errors.Join(errs...)
}

// nextEpoch makes labels void where a cgroup was added within another that
// connections may be labelled with.
func (n *namespace) nextEpoch(subjects []*datapath.Subject) {
	now := map[uint64]bool{}
	added := false
	for _, m := range n.members {
		now[m.cgroup] = true
		if n.cgroups[m.cgroup] {
			continue
		}
		for _, s := range subjects {
			if s != m.subject && s.Cgroup != "" && len(s.Cgroup) < len(m.subject.Cgroup) && m.subject.Cgroup[:len(s.Cgroup)] == s.Cgroup {
				added = true
			}
		}
	}
	if added && n.cgroups != nil {
		n.epoch++
	}
	n.cgroups = now
}

// shape is the rules the members need.
func (n *namespace) shape() shape {
	s := shape{base: n.base != nil, epoch: n.epoch}
	var levels []byte
	for _, m := range n.members {
		if !slices.Contains(levels, byte(m.level)) {
			levels = append(levels, byte(m.level))
		}
	}
	slices.Sort(levels)
	slices.Reverse(levels)
	s.levels = string(levels)
	if s.levels == "" {
		s.epoch = 0
	}
	return s
}
