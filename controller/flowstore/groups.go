package flowstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"weft/model"
)

// What makes a question longer: labels that groups ask about, where rows differ in
// groups, and groups, where a condition is about them.
const (
	maxKeys   = 100
	maxGroups = 100
)

// groups are groups by name, in order, each with selectors any of which makes a
// workload its member. Members are found by the labels that they had when they
// talked, of groups as they are when it is asked.
type groups []group

type group struct {
	name string
	any  []model.Selector
}

// grouped reads the groups, where a question is about them.
func (s *Store) grouped(ctx context.Context, q *Query) error {
	names := slices.Clone(q.By)
	for _, r := range requirements(q.Where) {
		names = append(names, r.Key)
	}
	asked := slices.ContainsFunc(names, func(name string) bool {
		_, end := groupEnd(name)
		return end || name == "group"
	})
	if !asked || s.read == nil {
		return nil
	}
	list, err := s.read(ctx)
	if err != nil {
		return fmt.Errorf("read the groups: %w", err)
	}
	q.groups = readGroups(list)
	if n := len(q.groups.keys()); n > maxKeys && slices.ContainsFunc(q.By, func(name string) bool { _, is := groupEnd(name); return is }) {
		return fmt.Errorf("%w: groups ask about %d labels, and flows can be summed up by groups of no more than %d; sum up by a label", ErrQuery, n, maxKeys)
	}
	return nil
}

func readGroups(list []*model.Group) (out groups) {
	byName := map[string]*model.Group{}
	for _, g := range list {
		byName[g.Metadata.Name] = g
	}
	for _, g := range list {
		x, been := group{name: g.Metadata.Name}, map[string]bool{}
		var take func(*model.Group)
		take = func(g *model.Group) {
			if g == nil || been[g.Metadata.Name] {
				return
			}
			been[g.Metadata.Name] = true
			if g.Spec.Selector != nil {
				x.any = append(x.any, *g.Spec.Selector)
			}
			for _, name := range g.Spec.Groups {
				take(byName[name])
			}
		}
		take(g)
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b group) int { return cmp.Compare(a.name, b.name) })
	return out
}

// groupEnd is the end of which a field is the groups.
func groupEnd(field string) (end string, ok bool) {
	end, ok = strings.CutSuffix(field, "-group")
	return end, ok && (end == "client" || end == "server")
}

// told is the labels of an end that groups ask about, as labelText writes them, and
// "" of what is no workload: of those few differ, whatever else labels say. Whoever
// asks the database whether each of many groups holds each end waits for minutes.
func (s *Store) told(st *statement, all groups, end string) string {
	set := end + "_labels"
	var b strings.Builder
	b.WriteString("CASE WHEN " + end + " = '' THEN '' ELSE concat('" + labelEnds + "', ''")
	for _, key := range all.keys() {
		piece := key + labelPairs
		b.WriteString(", CASE WHEN " + s.db.dialect().contains(set, st.value(labelEnds+piece)))
		b.WriteString(" THEN concat(" + st.value(piece) + ", " + s.db.dialect().labelled(set, st.value(labelEnds+piece)) + ", '" + labelEnds + "') ELSE '' END")
	}
	b.WriteString(") END")
	return b.String()
}

// keys are those of labels that groups ask about.
func (g groups) keys() (out []string) {
	for _, x := range g {
		for _, s := range x.any {
			for _, r := range s.Requirements {
				out = append(out, r.Key)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// of finds the groups of a workload by what is told of its labels; one that is in
// none, and what is no workload, is in "".
func (g groups) of(told string) (out []string) {
	if told != "" {
		labels := readLabels(told)
		for _, x := range g {
			if slices.ContainsFunc(x.any, func(s model.Selector) bool { return s.Matches(labels) }) {
				out = append(out, x.name)
			}
		}
	}
	if len(out) == 0 {
		out = []string{""}
	}
	return out
}

// maxFolded is how many rows are folded, and become of it.
const maxFolded = 100_000

// fold makes of what is told of ends their groups, adds up, and sorts: each row
// counts in every group of its end, or in every pair of groups of both.
func (q *Query) fold(ctx context.Context, a *answer) (*answer, error) {
	if a.rows > maxFolded {
		return nil, errTooMuch
	}
	known := map[string][]string{}
	rows, at := []foldedRow{}, map[string]int{}
	for i := range a.rows {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		m := make([]uint64, len(measures))
		for n := range m {
			m[n] = a.numbers[len(q.By)+n][i]
		}
		keys := [][]string{make([]string, len(q.By))}
		for n, name := range q.By {
			told := a.texts[n][i]
			values := []string{told}
			if _, is := groupEnd(name); is {
				if _, ok := known[told]; !ok {
					known[told] = q.groups.of(told)
				}
				values = known[told]
			}
			keys = spread(keys, n, values)
			if len(keys) > maxFolded {
				return nil, errTooMuch
			}
		}
		for _, key := range keys {
			x := strings.Join(key, "\x00")
			n, ok := at[x]
			if !ok {
				if len(rows) == maxFolded {
					return nil, errTooMuch
				}
				n = len(rows)
				at[x], rows = n, append(rows, foldedRow{key: key})
			}
			rows[n].add(m)
		}
	}
	q.sort(rows)
	rows = rows[min(q.Offset, len(rows)):]
	if q.Limit > 0 {
		rows = rows[:min(q.Limit, len(rows))]
	}
	out := &answer{rows: len(rows), texts: make([][]string, len(a.texts)), numbers: make([][]uint64, len(a.numbers))}
	for _, r := range rows {
		for n, k := range r.key {
			out.texts[n] = append(out.texts[n], k)
		}
		for n, v := range r.measures {
			out.numbers[len(q.By)+n] = append(out.numbers[len(q.By)+n], v)
		}
	}
	return out, nil
}

// foldedRow is a row of sums: its key, and its measures.
type foldedRow struct {
	key      []string
	measures []uint64
}

func (r *foldedRow) add(m []uint64) {
	if r.measures == nil {
		r.measures = slices.Clone(m)
		return
	}
	for n, v := range m {
		switch measures[n].name {
		case "first":
			r.measures[n] = min(r.measures[n], v)
		case "last":
			r.measures[n] = max(r.measures[n], v)
		default:
			r.measures[n] += v
		}
	}
}

// spread makes of each key one for each value at a place of it.
func spread(keys [][]string, place int, values []string) (out [][]string) {
	for _, key := range keys {
		for i, v := range values {
			x := key
			if i < len(values)-1 {
				x = slices.Clone(key)
			}
			x[place] = v
			out = append(out, x)
		}
	}
	return out
}

// sort sorts rows as the database would: see Query.order.
func (q *Query) sort(rows []foldedRow) {
	by := func(r *foldedRow) (n uint64) {
		for i, m := range measures {
			switch m.name {
			case "sent_bytes", "received_bytes":
				if q.Order == "bytes" || q.Order == "" || q.Order == "time" {
					n += r.measures[i]
				}
			case "sent_packets", "received_packets":
				if q.Order == "packets" {
					n += r.measures[i]
				}
			case "connections":
				if q.Order == "connections" {
					n += r.measures[i]
				}
			}
		}
		return n
	}
	timed := slices.IndexFunc(q.By, func(f string) bool { return times[f] > 0 })
	slices.SortFunc(rows, func(a, b foldedRow) int {
		if timed >= 0 && (q.Order == "time" || q.Order == "") {
			if c := cmp.Compare(a.key[timed], b.key[timed]); c != 0 {
				return c
			}
		}
		return cmp.Or(cmp.Compare(by(&b), by(&a)), slices.Compare(a.key, b.key))
	})
}

// member adds that an end is of a group.
func (s *Store) member(st *statement, end string, g group) {
	st.add("(" + end + " <> '' AND (1 = 0")
	for _, selector := range g.any {
		st.add(" OR (1 = 1")
		for _, r := range selector.Requirements {
			st.add(" AND ")
			s.label(st, end, r)
		}
		st.add(")")
	}
	st.add("))")
}

// inGroups adds that an end is in groups: in any where none is named.
func (s *Store) inGroups(st *statement, all groups, end string, r model.Requirement) error {
	list := all
	if r.Operator == model.OpIn || r.Operator == model.OpNotIn {
		list = nil
		for _, name := range r.Values {
			i := slices.IndexFunc(all, func(g group) bool { return g.name == name })
			if i < 0 {
				return fmt.Errorf("%w: there is no group %q; there are %s. The label of that name is %s.group", ErrQuery, name, all, end)
			}
			list = append(list, all[i])
		}
	}
	if len(list) > maxGroups {
		return fmt.Errorf("%w: that is about %d groups, and a condition can be about %d; name some, as group in (a,b)", ErrQuery, len(list), maxGroups)
	}
	if negative(r.Operator) {
		st.add("NOT ")
	}
	st.add("(1 = 0")
	for _, g := range list {
		st.add(" OR ")
		s.member(st, end, g)
	}
	st.add(")")
	return nil
}

// String lists some of the names.
func (g groups) String() string {
	if len(g) == 0 {
		return "none"
	}
	var names []string
	for i, x := range g {
		if i == 20 {
			names = append(names, "…")
			break
		}
		names = append(names, x.name)
	}
	return strings.Join(names, ", ")
}
