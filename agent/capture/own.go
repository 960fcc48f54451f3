package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"
)

// ownKey is struct own_key in tap.c.
type ownKey struct {
	Local, Remote         [16]byte
	LocalPort, RemotePort [2]byte
}

// ownConns is the list of the agent's own connections, kept here and, while a
// store is open, in the kernel.
type ownConns struct {
	mu    sync.Mutex
	conns map[ownKey]int
	kept  *ebpf.Map
}

// Own notes a TCP connection of the agent itself until it is closed. A tap of
// the whole machine leaves its frames out: they would be copies of copies,
// without end. Only the handshake is tapped, which is over before Own is called.
func (c *Capture) Own(conn net.Conn) net.Conn {
	key, ok := newOwnKey(conn)
	if !ok {
		return conn
	}
	c.own.add(key)
	return &ownConn{Conn: conn, release: sync.OnceFunc(func() { c.own.remove(key) })}
}

type ownConn struct {
	net.Conn
	release func()
}

// Close closes the connection, then forgets it: its last frames are still ours.
func (c *ownConn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}

func newOwnKey(conn net.Conn) (ownKey, bool) {
	local, ok1 := conn.LocalAddr().(*net.TCPAddr)
	remote, ok2 := conn.RemoteAddr().(*net.TCPAddr)
	if !ok1 || !ok2 {
		return ownKey{}, false
	}
	as16 := func(a netip.AddrPort) [16]byte { return a.Addr().As16() }
	key := ownKey{Local: as16(local.AddrPort()), Remote: as16(remote.AddrPort())}
	binary.BigEndian.PutUint16(key.LocalPort[:], uint16(local.Port))
	binary.BigEndian.PutUint16(key.RemotePort[:], uint16(remote.Port))
	return key, true
}

func (o *ownConns) add(key ownKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conns == nil {
		o.conns = map[ownKey]int{}
	}
	o.conns[key]++
	if o.kept != nil {
		o.kept.Put(key, uint8(1)) // full: then this one is tapped, and the ledger shows it
	}
}

func (o *ownConns) remove(key ownKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conns[key]--; o.conns[key] > 0 {
		return
	}
	delete(o.conns, key)
	if o.kept != nil {
		o.kept.Delete(key)
	}
}

// open makes the kernel's list this one; what another agent left goes.
func (o *ownConns) open(m *ebpf.Map) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var stale []ownKey
	var key ownKey
	var value uint8
	for entries := m.Iterate(); entries.Next(&key, &value); {
		if o.conns[key] == 0 {
			stale = append(stale, key)
		}
	}
	for _, key := range stale {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget a connection of an earlier agent: %w", err)
		}
	}
	for key := range o.conns {
		if err := m.Put(key, uint8(1)); err != nil {
			return fmt.Errorf("note an own connection: %w", err)
		}
	}
	o.kept = m
	return nil
}

// close is called before the map is: the kernel keeps the list as it is.
func (o *ownConns) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = nil
}
