package observe

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"weft/model"
	"weft/wire/wirepb"
)

// ring is what a host keeps of a line, as it reported last.
func (h *host) ring(line string) *model.RingStatus {
	for _, r := range h.rings {
		if r.GetLine() == line {
			return h.ringStatus(r)
		}
	}
	return nil
}

func (h *host) ringStatus(r *wirepb.RingStatus) *model.RingStatus {
	out := &model.RingStatus{Tap: r.GetTap(), Bytes: r.GetBytes(), Size: r.GetSize(), Message: r.GetMessage()}
	if r.GetOldestUnixNanos() > 0 {
		out.Oldest, out.Newest = stamp(time.Unix(0, r.GetOldestUnixNanos())), stamp(time.Unix(0, r.GetNewestUnixNanos()))
	}
	if l := h.lines[r.GetLine()].GetLedger(); l != nil {
		out.Lost = l.GetShed().GetPackets() + l.GetRingDropped().GetPackets() + l.GetPathDropped().GetPackets()
	}
	return out
}

// ringStatuses are all that a host keeps, by tap.
func (h *host) ringStatuses() (out []model.RingStatus) {
	for _, r := range h.rings {
		out = append(out, *h.ringStatus(r))
	}
	slices.SortFunc(out, func(a, b model.RingStatus) int { return cmp.Compare(a.Tap, b.Tap) })
	return out
}

// maxRings is how many rings of a host are listened to.
const maxRings = 256

func cleanRings(list []*wirepb.RingStatus) (out []*wirepb.RingStatus) {
	for _, r := range list[:min(len(list), maxRings)] {
		r = proto.CloneOf(r)
		r.Tap, r.Message = model.CleanLabelValue(r.Tap), strings.ToValidUTF8(r.Message[:min(len(r.Message), maxText)], "?")
		out = append(out, r)
	}
	return out
}
