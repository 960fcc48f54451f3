package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// never are calls of which no part of a program that neither starts others nor
// manages the machine has need. Those that this architecture does not have are
// left out.
var never = []string{
	// Other processes: their memory and signals. Descriptors are read to find out whose
	// tap a hypervisor holds.
	"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_send_signal", "kcmp",
	"tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "migrate_pages", "move_pages",
	// Programs.
	"execve", "execveat", "uselib",
	// The kernel itself.
	"init_module", "finit_module", "delete_module", "create_module", "query_module", "get_kernel_syms",
	"kexec_load", "kexec_file_load", "reboot", "iopl", "ioperm", "modify_ldt", "vm86", "vm86old", "personality",
	"perf_event_open", "syslog", "_sysctl", "lookup_dcookie", "nfsservctl",
	// File systems.
	"mount", "umount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount", "fspick", "open_tree", "open_tree_attr",
	"move_mount", "mount_setattr", "swapon", "swapoff", "quotactl", "quotactl_fd", "acct", "mknod", "mknodat",
	"open_by_handle_at", "fanotify_init", "fanotify_mark",
	// Who we are, and what the machine is called and thinks the time is.
	"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups",
	"sethostname", "setdomainname", "settimeofday", "stime", "clock_settime", "clock_adjtime", "adjtimex", "vhangup",
	// Keys of the kernel's, and doors through which much got in.
	"add_key", "request_key", "keyctl", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
}

// otherNamespaces are those of processes beside that of the network.
const otherNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME

func policy() (*seccomp.Policy, *arch.Info, error) {
	here, err := arch.GetInfo(runtime.GOARCH)
	if err != nil {
		return nil, nil, err
	}
	self := uint64(os.Getpid())
	deny := seccomp.SyscallGroup{Action: seccomp.ActionErrno}
	for _, name := range never {
		if _, there := here.SyscallNames[name]; there {
			deny.Names = append(deny.Names, name)
		}
	}
	when := func(name string, arg uint32, op seccomp.Operation, value uint64) {
		deny.NamesWithCondtions = append(deny.NamesWithCondtions, seccomp.NameWithConditions{Name: name,
			Conditions: seccomp.ArgumentConditions{{Argument: arg, Operation: op, Value: value}}})
	}
	when("kill", 0, seccomp.NotEqual, self)
	when("tgkill", 0, seccomp.NotEqual, self) // Go's own, to stop its threads
	when("setns", 1, seccomp.NotEqual, unix.CLONE_NEWNET)
	when("unshare", 0, seccomp.BitsSet, otherNamespaces)
	when("clone", 0, seccomp.BitsSet, otherNamespaces&^unix.CLONE_NEWTIME) // there it is part of a signal's number
	return &seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{
		// What clone3 asks for lies in memory, where a filter does not look: whoever
		// hears that there is none uses clone.
		{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
		deny,
	}}, here, nil
}

// refuseCalls lets the kernel answer EPERM, and log it, on every thread.
func refuseCalls() error {
	p, here, err := policy()
	if err != nil {
		return err
	}
	program, err := p.Assemble()
	if err != nil {
		return fmt.Errorf("make the filter: %w", err)
	}
	// Another architecture's calls have other numbers: none of them.
	const archOffset, word = 4, 4
	program = append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: archOffset, Size: word},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(here.ID), SkipTrue: 1},
		bpf.RetConstant{Val: uint32(seccomp.ActionErrno) | uint32(unix.ENOSYS)},
	}, program...)
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("make the filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return load(&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

func load(program *unix.SockFprog) error {
	runtime.LockOSThread() // no_new_privs must be had by the thread that calls
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	const all = uintptr(seccomp.FilterFlagTSync)
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, all|uintptr(seccomp.FilterFlagLog), uintptr(unsafe.Pointer(program)))
	if errno == unix.EINVAL { // before 4.14 there was nothing to log with
		thread, _, errno = unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, all, uintptr(unsafe.Pointer(program)))
	}
	runtime.KeepAlive(program)
	switch {
	case errno == unix.ENOSYS || errno == unix.EINVAL:
		return fmt.Errorf("the kernel filters no system calls (CONFIG_SECCOMP_FILTER): %w", errno)
	case errno != 0:
		return fmt.Errorf("load the filter: %w", errno)
	case thread != 0:
		return fmt.Errorf("load the filter: thread %d has another", thread)
	}
	return nil
}
