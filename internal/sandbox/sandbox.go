// Package sandbox takes from this process what its work does not need: its
// capabilities but a few, new ones by exec, and system calls that only an
// intruder would make. It holds for every thread, and for good.
//
// It says what came about instead of failing: a kernel that lacks a part is no
// reason not to work, but it is told.
package sandbox

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// The names under which a part is reported.
const (
	// Capabilities are dropped, and none is had anew.
	Capabilities = "sandbox.capabilities"
	// Calls that are never needed are refused.
	Calls = "sandbox.calls"
	// Files are read-only but for a few directories. Whoever starts the process
	// sees to that; here it is looked at.
	Files = "sandbox.files"
)

// Report says of each part "yes", "no: REASON" or "unknown: REASON".
type Report map[string]string

// Off is the report where nothing was to be taken away.
func Off(why string) Report {
	return Report{Capabilities: "no: " + why, Calls: "no: " + why, Files: files()}
}

// Enter takes away everything but the named capabilities ("net_admin", …).
// Those that this process does not have it does not get.
func Enter(keep ...string) Report {
	// Calls come last: the filter refuses what the others do.
	r := Report{Files: files(), Capabilities: answer(dropCapabilities(keep))}
	r[Calls] = answer(refuseCalls())
	return r
}

// Missing are the parts that did not come about, in the words of a log line.
func (r Report) Missing() []string {
	var out []string
	for _, part := range []string{Capabilities, Calls} {
		if text := r[part]; text != "yes" {
			out = append(out, part+": "+text)
		}
	}
	return out
}

func answer(err error) string {
	if err != nil {
		return "no: " + err.Error()
	}
	return "yes"
}

// dropCapabilities leaves the kept ones in every set. No file gives new ones
// from here on, and no other process may look into this one's memory, of which
// the kernel writes no image either.
func dropCapabilities(keep []string) error {
	kept := make([]cap.Value, 0, len(keep))
	for _, name := range keep {
		v, err := cap.FromName("cap_" + name)
		if err != nil {
			return fmt.Errorf("capability %s: %w", name, err)
		}
		kept = append(kept, v)
	}
	var errs []error
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		errs = append(errs, fmt.Errorf("forbid new privileges: %w", err))
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		errs = append(errs, fmt.Errorf("forbid images of the memory: %w", err))
	}
	var bound []string
	for v := cap.Value(0); v < cap.MaxBits(); v++ {
		if there, err := cap.GetBound(v); err != nil || !there || slices.Contains(kept, v) {
			continue
		}
		if err := cap.DropBound(v); err != nil {
			bound = append(bound, v.String())
		}
	}
	if len(bound) > 0 {
		errs = append(errs, fmt.Errorf("take %s from the bounding set: not permitted", strings.Join(bound, ", ")))
	}
	have, want := cap.GetProc(), cap.NewSet()
	for _, v := range kept {
		if there, err := have.GetFlag(cap.Permitted, v); err == nil && there {
			errs = append(errs, want.SetFlag(cap.Permitted, true, v), want.SetFlag(cap.Effective, true, v))
		}
	}
	if err := want.SetProc(); err != nil {
		errs = append(errs, fmt.Errorf("drop capabilities: %w", err))
	}
	return errors.Join(errs...)
}

// files looks whether the file system is read-only where programs and
// configuration lie.
func files() string {
	for _, dir := range []string{"/usr", "/etc"} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return "unknown: look at " + dir + ": " + err.Error()
		}
		if st.Flags&unix.ST_RDONLY == 0 {
			return "no: " + dir + " can be written; the systemd unit makes it read-only"
		}
	}
	return "yes"
}
