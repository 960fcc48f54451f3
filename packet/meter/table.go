package meter

// none is no place in a list.
const none = -1

// list is flows from the one that was quiet for longest to the newest.
type list struct{ head, tail int32 }

// table holds a bounded number of flows, found by their key, in the order of
// their last packets. Those of TCP that are over are in a list of their own: they
// end sooner, and make room first.
type table struct {
	chunks       [][]Flow
	len, most    int32
	places       map[key]int32
	free         int32 // the first free place; free places are chained by after
	open, closed list
}

// chunk is how many flows room is made for at a time.
const chunk = 1024

func (t *table) init(n int) {
	t.places, t.most = map[key]int32{}, int32(n)
	t.free, t.open, t.closed = none, list{none, none}, list{none, none}
}

func (t *table) find(k key) *Flow {
	if i, ok := t.places[k]; ok {
		return t.at(i)
	}
	return nil
}

// take returns a free place, nil where there is none.
func (t *table) take() *Flow {
	if t.free != none {
		f := t.at(t.free)
		t.free = f.after
		return f
	}
	if t.len == t.most {
		return nil
	}
	if t.len%chunk == 0 {
		t.chunks = append(t.chunks, make([]Flow, chunk))
	}
	t.len++
	f := t.at(t.len - 1)
	f.id = t.len - 1
	return f
}

// put enters a flow that has its key.
func (t *table) put(f *Flow) {
	t.places[f.key] = f.id
	f.before, f.after = none, none
	t.append(t.listOf(f), f)
}

func (t *table) remove(f *Flow) {
	delete(t.places, f.key)
	t.unlink(t.listOf(f), f)
	f.State = nil
	f.after, t.free = t.free, f.id
}

// touch makes a flow the newest of its list.
func (t *table) touch(f *Flow) {
	l := t.listOf(f)
	if l.tail == f.id {
		return
	}
	t.unlink(l, f)
	t.append(l, f)
}

// close moves a flow to those that are over.
func (t *table) close(f *Flow) {
	t.unlink(&t.open, f)
	f.tcp.over = true
	t.append(&t.closed, f)
}

func (t *table) listOf(f *Flow) *list {
	if f.tcp.over {
		return &t.closed
	}
	return &t.open
}

func (t *table) append(l *list, f *Flow) {
	f.before, f.after = l.tail, none
	if l.tail == none {
		l.head = f.id
	} else {
		t.at(l.tail).after = f.id
	}
	l.tail = f.id
}

func (t *table) unlink(l *list, f *Flow) {
	if f.before == none {
		l.head = f.after
	} else {
		t.at(f.before).after = f.after
	}
	if f.after == none {
		l.tail = f.before
	} else {
		t.at(f.after).before = f.before
	}
}

func (t *table) at(i int32) *Flow {
	if i == none {
		return nil
	}
	return &t.chunks[i/chunk][i%chunk]
}

// oldest is the one to end first.
func (t *table) oldest() *Flow {
	if t.closed.head != none {
		return t.at(t.closed.head)
	}
	return t.at(t.open.head)
}
