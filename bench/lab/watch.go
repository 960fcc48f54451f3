package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"

	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft/lab"
	"weft/lab/netns"
)

// watcher knows which namespaces are still alive without keeping them so: it
// gives each a number in a namespace of its own, and the kernel takes the
// number away when it takes the namespace apart (rtnetlink RTM_*NSID).
type watcher struct{ conn *mnl.Conn }

const (
	attrNSID = 1 // NETNSA_NSID
	attrFD   = 3 // NETNSA_FD
)

func watch(l *lab.Lab) (*watcher, error) {
	w := &watcher{}
	err := netns.Sacrifice(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("create network namespace: %w", err)
		}
		w.conn, err = mnl.Dial(unix.NETLINK_ROUTE, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, h := range l.Hosts() {
		if err := w.number(h.NetNS()); err != nil {
			w.close()
			return nil, fmt.Errorf("number namespace of %s: %w", h.Name, err)
		}
	}
	// A list that misses some would call every lab free of leaks.
	if alive, err := w.alive(); err != nil || alive != len(l.Hosts()) {
		w.close()
		return nil, fmt.Errorf("numbered %d namespaces and see %d: %w", len(l.Hosts()), alive, err)
	}
	return w, nil
}

func (w *watcher) number(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	attrs, err := mnl.MarshalAttributes([]mnl.Attribute{
		{Type: attrNSID, Data: binary.NativeEndian.AppendUint32(nil, ^uint32(0))},
		{Type: attrFD, Data: binary.NativeEndian.AppendUint32(nil, uint32(f.Fd()))},
	})
	if err != nil {
		return err
	}
	_, err = w.conn.Execute(mnl.Message{
		Header: mnl.Header{Type: unix.RTM_NEWNSID, Flags: mnl.Request | mnl.Acknowledge},
		Data:   append(make([]byte, 4), attrs...),
	})
	return err
}

// wait returns when no namespace is alive, or how many are after a while.
func (w *watcher) wait(patience time.Duration) (int, error) {
	deadline := time.Now().Add(patience)
	for {
		alive, err := w.alive()
		if err != nil || alive == 0 || time.Now().After(deadline) {
			return alive, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (w *watcher) alive() (int, error) {
	ids, err := w.conn.Execute(mnl.Message{
		Header: mnl.Header{Type: unix.RTM_GETNSID, Flags: mnl.Request | mnl.Dump},
		Data:   make([]byte, 4),
	})
	if err != nil {
		return 0, fmt.Errorf("list namespaces: %w", err)
	}
	return len(ids), nil
}

func (w *watcher) close() { w.conn.Close() }
