package observe

import (
	"strings"

	"weft/wire/wirepb"
)

// maxDrops is how many reasons of a host are listened to.
const maxDrops = 256

// cleanDrops takes what a host says that its kernel has thrown away, by reason.
func cleanDrops(list []*wirepb.DropCount) map[string]uint64 {
	if len(list) == 0 {
		return nil
	}
	out := map[string]uint64{}
	for _, d := range list[:min(len(list), maxDrops)] {
		reason := d.GetReason()
		out[strings.ToValidUTF8(reason[:min(len(reason), maxText)], "?")] += d.GetPackets()
	}
	return out
}
