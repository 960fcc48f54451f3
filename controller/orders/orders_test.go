package orders

import (
	"testing"

	"weft/wire/wirepb"
)

func TestWanted(t *testing.T) {
	s := New[*wirepb.ProbeOrder]()
	if list, fresh, version, _ := s.Wanted(0); list != nil || fresh || version != 0 {
		t.Errorf("of an empty sheet: %v, %t, version %d", list, fresh, version)
	}
	_, _, _, changed := s.Wanted(0)
	s.Put(7, &wirepb.ProbeOrder{Id: 7})
	s.Put(3, &wirepb.ProbeOrder{Id: 3})
	<-changed
	list, fresh, version, changed := s.Wanted(0)
	if !fresh || len(list) != 2 || list[0].Id != 3 || list[1].Id != 7 {
		t.Fatalf("%v, %t", list, fresh)
	}
	list[0].Id = 9 // a copy
	if again, _, _, _ := s.Wanted(0); again[0].Id != 3 {
		t.Error("whoever is told can change an order")
	}
	if list, fresh, now, _ := s.Wanted(version); list != nil || fresh || now != version {
		t.Errorf("of what is known: %v, %t, version %d", list, fresh, now)
	}
	s.Drop(8) // that there is not
	select {
	case <-changed:
		t.Error("nothing has changed")
	default:
	}
	s.Call()
	<-changed
	if _, fresh, _, _ := s.Wanted(version); fresh {
		t.Error("a call is no new version")
	}
	s.Drop(3)
	if list, fresh, _, _ := s.Wanted(version); !fresh || len(list) != 1 || list[0].Id != 7 {
		t.Errorf("%v, %t", list, fresh)
	}
}
