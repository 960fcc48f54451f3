package main

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"weft/lab"
	"weft/lab/netns"
)

// offloads turns what the kernel calls TSO, GSO and GRO on or off for eth0 of a
// host, by ethtool's ioctl (linux/ethtool.h).
func offloads(h *lab.Host, on bool) error {
	return netns.Do(h.NetNS(), func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, command := range []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_SGRO} {
			value := struct{ command, data uint32 }{command: command}
			if on && command != unix.ETHTOOL_SGRO { // a veth pair has no GRO unless asked
				value.data = 1
			}
			request := struct {
				name [unix.IFNAMSIZ]byte
				data unsafe.Pointer
				_    [16]byte
			}{data: unsafe.Pointer(&value)}
			copy(request.name[:], "eth0")
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
				return fmt.Errorf("set offloads of eth0 of %s: %w", h.Name, errno)
			}
		}
		return nil
	})
}
