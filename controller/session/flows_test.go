package session

import (
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	"weft/wire"
	"weft/wire/wirepb"
)

// Once a batch was not taken, none that the session sends after it is: they are
// kept in order. The session goes on, and ends when there is room.
func TestFlowsThatAreNotTakenComeAgain(t *testing.T) {
	got, rooms := make(chan uint64, 10), make(chan func(), 1)
	h := newHouseWith(t, Config{Heartbeat: 50 * time.Millisecond}, Deps{Flows: func(_ wire.Identity, b *wirepb.FlowBatch, kept func(*wirepb.FlowAck), again func()) (bool, error) {
		got <- b.Number
		if b.Number == 2 && len(rooms) == 0 {
			rooms <- again
			return false, nil
		}
		kept(&wirepb.FlowAck{Epoch: b.Epoch, Number: b.Number})
		return true, nil
	}})
	c, _ := h.member("host", "web-1")
	send := func(st *clientStream, numbers ...uint64) {
		t.Helper()
		for _, n := range numbers {
			if err := st.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Flows{Flows: &wirepb.FlowBatch{Epoch: 1, Number: n}}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	st := h.mustOpen(c, "a")
	send(st, 1, 2, 3)
	var acks []uint64
	for beats := 0; beats < 3; { // the session lives on
		m, err := st.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if a := m.GetFlows(); a != nil {
			acks = append(acks, a.Number)
		}
		if m.GetHeartbeat() != nil {
			beats++
			st.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Heartbeat{Heartbeat: &wirepb.Heartbeat{UnixNanos: time.Now().UnixNano()}}})
		}
	}
	if !slices.Equal(acks, []uint64{1}) {
		t.Errorf("acknowledged were %v, want 1 alone", acks)
	}
	again := <-rooms
	rooms <- again // the next time it is taken
	again()
	var err error
	for err == nil {
		_, err = st.Receive()
	}
	wantRefusal(t, err, connect.CodeUnavailable, "", "room for flows again")
	send(h.mustOpen(c, "a"), 2, 3)
	for _, want := range []uint64{1, 2, 2, 3} {
		if n := <-got; n != want {
			t.Errorf("batch %d came, want %d", n, want)
		}
	}
}
