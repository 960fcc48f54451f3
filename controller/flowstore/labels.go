package flowstore

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"

	"weft/model"
)

// labelsets number sets of labels: rows name the set by its number, and a table
// has what is in it. 0 is the empty set.
type labelsets struct {
	mu     sync.Mutex
	byText map[string]uint32
	sets   []map[string]string // by number, from 1
	// seen saves reading maps that were read before: workloads are never changed.
	seen map[uintptr]uint32
	held []map[string]string // keeps what seen points to
}

func textOf(labels map[string]string) string {
	var b []byte
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		b = append(append(append(append(b, k...), 0), labels[k]...), 0)
	}
	return string(b)
}

func (l *labelsets) load(ctx context.Context, c *sql.Conn) error {
	l.byText, l.seen = map[string]uint32{}, map[uintptr]uint32{}
	rows, err := c.QueryContext(ctx, "SELECT id, key, value FROM labels ORDER BY id")
	if err != nil {
		return fmt.Errorf("read the labels of flows: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id uint32
		var key, value string
		if err := rows.Scan(&id, &key, &value); err != nil {
			return fmt.Errorf("read the labels of flows: %w", err)
		}
		for uint32(len(l.sets)) < id {
			l.sets = append(l.sets, map[string]string{})
		}
		l.sets[id-1][key] = value
	}
	for i, set := range l.sets {
		l.byText[textOf(set)] = uint32(i + 1)
	}
	return rows.Err()
}

// maxSeen bounds what is remembered of maps.
const maxSeen = 100_000

// id is the number of a set.
func (l *labelsets) id(labels map[string]string) uint32 {
	if len(labels) == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at := reflect.ValueOf(labels).Pointer()
	if id, ok := l.seen[at]; ok {
		return id
	}
	text := textOf(labels)
	id, ok := l.byText[text]
	if !ok {
		l.sets = append(l.sets, maps.Clone(labels))
		id = uint32(len(l.sets))
		l.byText[text] = id
	}
	if len(l.seen) >= maxSeen {
		clear(l.seen)
		l.held = nil
	}
	l.seen[at], l.held = id, append(l.held, labels)
	return id
}

func (l *labelsets) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sets)
}

// undo forgets sets whose rows were not kept.
func (l *labelsets) undo(to int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, set := range l.sets[to:] {
		delete(l.byText, textOf(set))
	}
	l.sets = l.sets[:to]
	clear(l.seen)
	l.held = nil
}

// save writes the sets from a number on.
func (l *labelsets) save(ctx context.Context, c *sql.Conn, from int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := from; i < len(l.sets); i++ {
		for k, v := range l.sets[i] {
			if _, err := c.ExecContext(ctx, "INSERT INTO labels VALUES (?, ?, ?)", uint32(i+1), k, v); err != nil {
				return fmt.Errorf("keep the labels of flows: %w", err)
			}
		}
	}
	return nil
}

// set returns a set by its number; whoever asks does not change it.
func (l *labelsets) set(id uint32) map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id == 0 || int(id) > len(l.sets) {
		return nil
	}
	return l.sets[id-1]
}

// matching are the numbers of the sets that fulfil a requirement; whether those
// without the key do is said for the empty set too, which is 0.
func (l *labelsets) matching(r model.Requirement) []any {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []any
	if r.Matches(nil) {
		out = append(out, uint32(0))
	}
	for i, set := range l.sets {
		if r.Matches(set) {
			out = append(out, uint32(i+1))
		}
	}
	return out
}
