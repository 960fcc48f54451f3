package result

// Ours is the peer name of weft's own figures.
const Ours = "weft"

// Series gathers the runs of many figures, and keeps the order in which the
// figures first came. The zero value is ready.
type Series struct {
	order []figure
	runs  map[figure][]float64
	notes map[figure]string
}

type figure struct{ bench, name, peer, unit string }

// Add adds one run of a figure.
func (s *Series) Add(bench, name, peer, unit string, value float64) {
	f := figure{bench, name, peer, unit}
	if s.runs == nil {
		s.runs, s.notes = map[figure][]float64{}, map[figure]string{}
	}
	if _, known := s.runs[f]; !known {
		s.order = append(s.order, f)
	}
	s.runs[f] = append(s.runs[f], value)
}

// Note says something of a figure that the number does not.
func (s *Series) Note(bench, name, peer, unit, note string) {
	s.notes[figure{bench, name, peer, unit}] = note
}

// Cells sums up: the figures of one name stand together, and those of others
// than weft have the ratio to weft's own of the same name.
func (s *Series) Cells() []Cell {
	var cells []Cell
	done := map[figure]bool{}
	for _, first := range s.order {
		if done[first] {
			continue
		}
		var ours float64
		for _, f := range s.order {
			if f.bench != first.bench || f.name != first.name || f.unit != first.unit {
				continue
			}
			done[f] = true
			c := New(f.bench, f.name, f.peer, f.unit, s.runs[f])
			c.Note = s.notes[f]
			if f.peer == Ours {
				ours = c.Median
			} else if ours > 0 && c.Median > 0 {
				c.Ratio = ours / c.Median
			}
			cells = append(cells, c)
		}
	}
	return cells
}
