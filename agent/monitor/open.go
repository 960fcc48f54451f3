package monitor

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// openat is openat(2) of a path that ends with a zero byte: that of x/sys makes a
// copy of each path.
func openat(dir int, path []byte) (int, error) {
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(&path[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
		if errno == 0 {
			return int(fd), nil
		}
		if errno != unix.EINTR {
			return -1, errno
		}
	}
}
