package flowstore

import (
	"testing"
	"time"

	"weft/model"
)

func TestFollow(t *testing.T) { backends(t, testFollow) }

// Who follows sees each flow once, a few ids at a time, over a store that is opened
// anew, and is told what was forgotten.
func testFollow(t *testing.T, open func(*testing.T, Config) *Store) {
	at := noon
	s := open(t, Config{Keep: 24 * time.Hour, Now: func() time.Time { return at }})
	last := func() uint64 {
		t.Helper()
		id, err := s.Last()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	after, began := last(), last()
	var got []uint16
	where, err := model.ParseSelector("port!=3")
	if err != nil {
		t.Fatal(err)
	}
	follow := func() {
		t.Helper()
		for after < last() {
			list, next, err := s.Follow(t.Context(), Query{Where: &where}, after, 2)
			if err != nil || next <= after {
				t.Fatalf("after %d comes %d: %v", after, next, err)
			}
			for _, f := range list {
				got = append(got, f.Server.Port)
			}
			after = next
		}
	}
	appendTo(t, s, Batch{HostUID: "h", Epoch: 1, Number: 1, Flows: []Flow{flow("a", "b", 1, 1), flow("a", "b", 2, 1), flow("a", "b", 3, 1)}})
	appendTo(t, s, Batch{HostUID: "h", Epoch: 1, Number: 2, Flows: []Flow{flow("a", "b", 4, 1)}})
	follow()
	s.Close()
	s = open(t, Config{Keep: 24 * time.Hour, Now: func() time.Time { return at }})
	appendTo(t, s, Batch{HostUID: "h", Epoch: 1, Number: 3, Flows: []Flow{flow("a", "b", 5, 1)}})
	follow()
	if len(got) != 4 || got[0] != 1 || got[1] != 2 || got[2] != 4 || got[3] != 5 {
		t.Errorf("followed are %v", got)
	}
	if gone, next, err := s.Forgotten(t.Context(), began); err != nil || gone != 0 || next != began {
		t.Errorf("%d are gone after %d, next is %d: %v", gone, began, next, err)
	}
	at = noon.Add(48 * time.Hour)
	if gone, next, err := s.Forgotten(t.Context(), began); err != nil || gone != 5 || next != last() {
		t.Errorf("%d are gone after %d, next is %d of %d: %v", gone, began, next, last(), err)
	}
}
