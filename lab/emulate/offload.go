package emulate

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands of the ethtool ioctl (include/uapi/linux/ethtool.h).
const (
	ethtoolSetTxCsum = 0x17
	ethtoolSetTSO    = 0x1f
)

// SetOffload switches checksum and segmentation offload of a device in the
// calling thread's network namespace. With both off it sends only whole frames
// of MTU size with their checksums in place, as a wire carries them.
func SetOffload(device string, on bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	order := []uint32{ethtoolSetTSO, ethtoolSetTxCsum}
	if on {
		order = []uint32{ethtoolSetTxCsum, ethtoolSetTSO}
	}
	for _, command := range order {
		value := struct{ command, data uint32 }{command: command}
		if on {
			value.data = 1
		}
		// struct ifreq: a name of 16 bytes and a union of 24.
		var request struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}
		copy(request.name[:unix.IFNAMSIZ-1], device)
		request.data = unsafe.Pointer(&value)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		runtime.KeepAlive(&value)
		if errno != 0 {
			return fmt.Errorf("set offload of %s: %w", device, errno)
		}
	}
	return nil
}
