package deliver

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A landing device is a veth pair: the user's end, whose name the tap gives, and
// the end that is fed. Both carry the alias "weft:NAME", by which a
// restarted agent knows them.
const (
	aliasPrefix = "weft:"
	newPrefix   = "weftnew-" // a pair being made has no alias yet
	deviceMTU   = 9216
	maxName     = 15
	addrGenNone = 1 // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h
)

func hashed(name string) string {
	h := fnv.New32a()
	h.Write([]byte(name))
	return fmt.Sprintf("%06x", h.Sum32()&0xffffff)
}

// feedName is the name of the end that is fed.
func feedName(device string) string {
	if name := device + "-feed"; len(name) <= maxName {
		return name
	}
	return "weftfd-" + hashed(device)
}

func checkDeviceName(name string) error {
	if name == "" || len(name) > maxName || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n") {
		return fmt.Errorf("device name %q: want 1 to %d bytes without '/', ':' and spaces", name, maxName)
	}
	return nil
}

// device is a landing device that is open.
type device struct {
	name  string
	feed  *feed
	block io.Closer
	index int // of the user's end

	unblocked error // why the host's own stack also gets the frames; nil: it does not

	dropMu  sync.Mutex
	handle  *netlink.Handle // of the device's namespace
	fed     int             // index of the end that is fed
	drops   uint64
	checked time.Time
}

// Reading a device's counters costs as much as some hundred frames.
const checkDropsEvery = 20 * time.Millisecond

// dropped returns how many frames the kernel took from us and then dropped
// before the user's end, because that is down or a queue was full, since the
// last time it was asked. now makes it look whenever it looked last.
func (d *device) dropped(now bool) uint64 {
	d.dropMu.Lock()
	defer d.dropMu.Unlock()
	if !now && time.Since(d.checked) < checkDropsEvery {
		return 0
	}
	d.checked = time.Now()
	l, err := d.handle.LinkByIndex(d.fed)
	if err != nil || l.Attrs().Statistics == nil {
		return 0
	}
	was := d.drops
	d.drops = l.Attrs().Statistics.TxDropped
	if d.drops < was {
		return 0
	}
	return d.drops - was
}

// openDevice makes the pair, or takes over the one that is there.
func openDevice(name string, attach Attach) (*device, error) {
	if err := checkDeviceName(name); err != nil {
		return nil, err
	}
	end, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		if err := makePair(name); err != nil {
			return nil, err
		}
		if end, err = netlink.LinkByName(name); err != nil {
			return nil, fmt.Errorf("find device %s: %w", name, err)
		}
	case err != nil:
		return nil, fmt.Errorf("find device %s: %w", name, err)
	case end.Attrs().Alias != aliasPrefix+name:
		return nil, fmt.Errorf("device %s exists and is not weft's (%s): remove it with \"ip link del %s\", or name another in the tap's spec.deliver.device",
			name, end.Type(), name)
	}
	if err := setUp(name, end); err != nil {
		return nil, err
	}
	fed, err := netlink.LinkByName(feedName(name))
	if err != nil {
		return nil, fmt.Errorf("find device %s: %w", feedName(name), err)
	}
	d := &device{name: name, index: end.Attrs().Index, fed: fed.Attrs().Index}
	if d.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	d.dropped(true)
	if d.feed, err = openFeed(fed.Attrs().Name, fed.Attrs().Index, deviceMTU); err != nil {
		d.handle.Close()
		return nil, err
	}
	// The kernel makes the device ready on a worker of its own (net/core/link_watch.c).
	for range 100 {
		if d.feed.running() {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if d.block, err = blockStack(end.Attrs().Index, attach); err != nil {
		d.unblocked = err
	}
	return d, nil
}

// makePair makes the pair under a passing name, marks both ends, and only then
// gives the user's end its name: a pair of that name is whole or not ours.
func makePair(name string) error {
	passing := newPrefix + hashed(name)
	removeLink(passing) // of an agent that was killed half-way
	if old, err := netlink.LinkByName(feedName(name)); err == nil {
		if old.Attrs().Alias != aliasPrefix+name {
			return fmt.Errorf("device %s exists and is not weft's: remove it with \"ip link del %s\"", feedName(name), feedName(name))
		}
		removeLink(feedName(name))
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.TxQLen = passing, deviceMTU, 1000
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: feedName(name), PeerMTU: deviceMTU}); err != nil {
		return fmt.Errorf("make device %s: %w", name, err)
	}
	for _, end := range []string{passing, feedName(name)} {
		l, err := netlink.LinkByName(end)
		if err != nil {
			return fmt.Errorf("find device %s: %w", end, err)
		}
		if err := netlink.LinkSetAlias(l, aliasPrefix+name); err != nil {
			return fmt.Errorf("mark device %s: %w", end, err)
		}
		if end == passing {
			if err := netlink.LinkSetName(l, name); err != nil {
				return fmt.Errorf("name device %s: %w", name, err)
			}
		}
	}
	return nil
}

// setUp makes both ends silent (no ARP, no IPv6 address, so no neighbour
// discovery), takes the offloads off the fed end, so that the kernel cuts
// super-frames and completes checksums before they cross, and brings both up.
func setUp(name string, end netlink.Link) error {
	fed, err := netlink.LinkByName(feedName(name))
	if err != nil {
		return fmt.Errorf("find device %s: %w", feedName(name), err)
	}
	for _, l := range []netlink.Link{end, fed} {
		n := l.Attrs().Name
		if err := netlink.LinkSetIP6AddrGenMode(l, addrGenNone); err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EAFNOSUPPORT) {
			return fmt.Errorf("turn off address generation on %s: %w", n, err)
		}
		if err := disableIPv6(n); err != nil {
			return err
		}
		if err := netlink.LinkSetARPOff(l); err != nil {
			return fmt.Errorf("turn off ARP on %s: %w", n, err)
		}
		if l.Attrs().MTU != deviceMTU {
			if err := netlink.LinkSetMTU(l, deviceMTU); err != nil {
				return fmt.Errorf("set MTU of %s: %w", n, err)
			}
		}
	}
	if err := offloadsOff(feedName(name)); err != nil {
		return err
	}
	for _, l := range []netlink.Link{fed, end} {
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("bring up %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// disableIPv6 keeps multicast listener reports off the device, which the kernel
// sends even without an address. /proc/sys/net is that of the calling thread's
// namespace. A kernel without IPv6 has nothing to disable.
func disableIPv6(name string) error {
	path := "/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6"
	if err := os.WriteFile(path, []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("disable IPv6 on %s: %w", name, err)
	}
	return nil
}

// offloadsOff turns tx checksumming, TSO and GSO off by ethtool's ioctl.
func offloadsOff(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	for _, command := range []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_STXCSUM} {
		value := struct{ command, data uint32 }{command, 0}
		var req struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}
		copy(req.name[:unix.IFNAMSIZ-1], name)
		req.data = unsafe.Pointer(&value)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
			return fmt.Errorf("turn off offloads of %s (ethtool command %#x): %w", name, command, errno)
		}
	}
	return nil
}

// alive says whether the device is still the one that was opened.
func (d *device) alive() bool {
	l, err := netlink.LinkByName(d.name)
	return err == nil && l.Attrs().Index == d.index && l.Attrs().Alias == aliasPrefix+d.name
}

// close lets go of the device and leaves it there.
func (d *device) close() {
	d.feed.close()
	d.dropMu.Lock()
	d.handle.Close()
	d.dropMu.Unlock()
	if d.block != nil {
		d.block.Close()
	}
}

func removeLink(name string) error {
	l, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find device %s: %w", name, err)
	}
	if err := netlink.LinkDel(l); err != nil {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	return nil
}

// ourDevices lists the landing devices that are there, by their user's end, and
// takes away pairs that a killed agent left half made.
func ourDevices() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var names []string
	for _, l := range links {
		attrs := l.Attrs()
		if l.Type() != "veth" {
			continue
		}
		if strings.HasPrefix(attrs.Name, newPrefix) {
			removeLink(attrs.Name)
		}
		if attrs.Alias == aliasPrefix+attrs.Name {
			names = append(names, attrs.Name)
		}
	}
	return names, nil
}
