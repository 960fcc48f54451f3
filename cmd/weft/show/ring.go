package show

import (
	"fmt"
	"time"

	"weft/model"
)

// ringLimits says what a ring keeps at most.
func ringLimits(r *model.Ring) string {
	return fmt.Sprintf("%s, %s", Bytes(r.Bytes()), Age(r.Duration()))
}

// rings prints what is kept, with the name of what it is of before.
func (p *page) rings(title string, names []string, list []model.RingStatus, now time.Time) {
	var rows [][]string
	for i, r := range list {
		rows = append(rows, []string{names[i], orDefault(ago(r.Oldest, now), "empty"), ago(r.Newest, now), Bytes(r.Bytes), Bytes(r.Size), Number(r.Lost), r.Message})
	}
	p.table([]Column{{Title: title}, {Title: "OLDEST"}, {Title: "NEWEST"}, {Title: "KEPT"}, {Title: "SIZE"}, {Title: "LOST"}, {Title: "MESSAGE", Flexible: true}}, rows)
}
