package transport

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"weft/model"
	"weft/wire"
	"weft/wire/wirepb"
)

// maxRelays bounds the sessions that a tool's host keeps.
const maxRelays = 8

// Apply makes the section the desired state. It is idempotent: relays that stay
// keep their sessions and streams. An error leaves what could be done done.
func (t *Transport) Apply(_ context.Context, section *wirepb.TransportSection) error {
	for _, relay := range section.GetRelays() {
		id, err := wire.ParseIdentity(relay.GetSpiffeId())
		if err != nil {
			return fmt.Errorf("relay %q: %w", relay.GetName(), err)
		}
		if id.Role != model.RoleRelay {
			return fmt.Errorf("relay %q: %s is no relay", relay.GetName(), id)
		}
		if len(relay.GetAddresses()) == 0 {
			return fmt.Errorf("relay %q has no address", relay.GetName())
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.section = proto.CloneOf(section)
	if t.section == nil {
		t.section = &wirepb.TransportSection{}
	}
	if _, err := t.life.context(); err != nil {
		return nil // Run will
	}
	return t.reconcile()
}

// reconcile changes what differs from the section. mu is held.
func (t *Transport) reconcile() error {
	old := map[string]*link{}
	for _, l := range t.links {
		old[l.id.String()] = l
	}
	t.links = nil
	for i, relay := range t.section.GetRelays() {
		if i == maxRelays {
			t.log.Warn("relays beyond the first are left out", "used", maxRelays, "given", len(t.section.GetRelays()))
			break
		}
		id, err := wire.ParseIdentity(relay.GetSpiffeId())
		if err != nil { // Apply has checked it
			continue
		}
		l := old[id.String()]
		delete(old, id.String())
		if l == nil {
			l = newLink(t, id)
		}
		l.set(relay.GetName(), relay.GetAddresses())
		l.keep(t.section.GetListen())
		t.links = append(t.links, l)
	}
	for _, l := range old {
		l.close()
	}
	if t.section.GetListen() {
		return t.listen()
	}
	return t.unlisten()
}

// order returns the relays by preference.
func (t *Transport) order() []*link {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]*link(nil), t.links...)
}

// listening says whether streams are accepted.
func (t *Transport) listening() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.section.GetListen() && t.deps.Accept != nil
}

// unlisten closes the listener; accepted streams go on. mu is held.
func (t *Transport) unlisten() error {
	if t.listener == nil {
		return nil
	}
	err := t.listener.Close()
	t.listener = nil
	return err
}

var errNoRelay = errors.New("the controller names no relay, and the peer cannot be reached directly")
