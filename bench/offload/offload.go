// Package offload turns the offloads of a network device on or off.
package offload

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"weft/lab/netns"
)

// Set turns what the kernel calls TSO, GSO and GRO on or off for a device in a
// network namespace, by ethtool's ioctl (linux/ethtool.h). GRO is never turned
// on: a veth pair has none unless asked.
func Set(namespace, device string, on bool) error {
	return netns.Do(namespace, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, command := range []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_SGRO} {
			value := struct{ command, data uint32 }{command: command}
			if on && command != unix.ETHTOOL_SGRO {
				value.data = 1
			}
			request := struct {
				name [unix.IFNAMSIZ]byte
				data unsafe.Pointer
				_    [16]byte
			}{data: unsafe.Pointer(&value)}
			copy(request.name[:], device)
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
				return fmt.Errorf("set offloads of %s in %s: %w", device, namespace, errno)
			}
		}
		return nil
	})
}
