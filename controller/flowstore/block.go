package flowstore

// block is rows of a table, in columns.
type block struct {
	table *table
	rows  int
	// values holds a pointer to a slice for each column, by its kind.
	values []any
}

func newBlock(t *table, room int) *block {
	b := &block{table: t, values: make([]any, len(t.columns))}
	for i, c := range t.columns {
		switch c.kind {
		case u8:
			b.values[i] = slots[uint8](room)
		case u16:
			b.values[i] = slots[uint16](room)
		case u32:
			b.values[i] = slots[uint32](room)
		case u64:
			b.values[i] = slots[uint64](room)
		default:
			b.values[i] = slots[string](room)
		}
	}
	return b
}

func slots[T any](n int) *[]T {
	list := make([]T, 0, n)
	return &list
}

// row is where the next value of a row goes: values come in the order of the
// columns, each of its column's type.
type row struct {
	values []any
	at     int
}

func (b *block) row() row {
	b.rows++
	return row{values: b.values}
}

func put[T any](r *row, v T) {
	list := r.values[r.at].(*[]T)
	*list = append(*list, v)
	r.at++
}

func truth(yes bool) uint8 {
	if yes {
		return 1
	}
	return 0
}
