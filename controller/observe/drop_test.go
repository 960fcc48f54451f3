package observe

import (
	"strings"
	"testing"

	"weft/wire/wirepb"
)

func TestDropsOfAHost(t *testing.T) {
	list := []*wirepb.DropCount{{Reason: "NO_SOCKET", Packets: 3}, {Reason: "A\xff", Packets: 1}, {Reason: strings.Repeat("x", 1<<20), Packets: 2}, nil}
	for range 10_000 {
		list = append(list, &wirepb.DropCount{Reason: "TCP_CSUM", Packets: 1})
	}
	got := cleanDrops(list)
	if got["NO_SOCKET"] != 3 || got["A?"] != 1 || got["TCP_CSUM"] != maxDrops-4 || len(got) != 5 {
		t.Errorf("%d reasons: %v", len(got), got["TCP_CSUM"])
	}
	for reason := range got {
		if len(reason) > maxText {
			t.Errorf("a reason of %d bytes", len(reason))
		}
	}
}
