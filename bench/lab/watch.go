package main

import (
	"encoding/binary"
	"errors"
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
type watcher struct {
	conn   *mnl.Conn
	number int // of namespaces, which are 0 to number-1
}

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
		if err := w.add(h.NetNS()); err != nil {
			w.close()
			return nil, fmt.Errorf("number namespace of %s: %w", h.Name, err)
		}
	}
	// A list that misses some would call every lab free of leaks.
	alive, err := w.alive()
	if err == nil && alive != len(l.Hosts()) {
		err = fmt.Errorf("numbered %d namespaces and see %d", len(l.Hosts()), alive)
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *watcher) add(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	attrs, err := mnl.MarshalAttributes([]mnl.Attribute{
		{Type: attrNSID, Data: binary.NativeEndian.AppendUint32(nil, uint32(w.number))},
		{Type: attrFD, Data: binary.NativeEndian.AppendUint32(nil, uint32(f.Fd()))},
	})
	if err != nil {
		return err
	}
	_, err = w.conn.Execute(mnl.Message{
		Header: mnl.Header{Type: unix.RTM_NEWNSID, Flags: mnl.Request | mnl.Acknowledge},
		Data:   append(make([]byte, 4), attrs...),
	})
	w.number++
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

// alive counts by asking for each number: the kernel answers ENOENT for one
// whose namespace has nothing left that refers to it.
func (w *watcher) alive() (int, error) {
	n := 0
	for id := range w.number {
		attrs, err := mnl.MarshalAttributes([]mnl.Attribute{{Type: attrNSID, Data: binary.NativeEndian.AppendUint32(nil, uint32(id))}})
		if err != nil {
			return 0, err
		}
		_, err = w.conn.Execute(mnl.Message{
			Header: mnl.Header{Type: unix.RTM_GETNSID, Flags: mnl.Request},
			Data:   append(make([]byte, 4), attrs...),
		})
		switch {
		case err == nil:
			n++
		case !errors.Is(err, unix.ENOENT):
			return 0, fmt.Errorf("ask for namespace %d: %w", id, err)
		}
	}
	return n, nil
}

func (w *watcher) close() { w.conn.Close() }
