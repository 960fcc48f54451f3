package importing

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// cursor is a place in a file: a value, perhaps one that is not there, with its path.
type cursor struct {
	run    *run
	file   string
	object string // "NetworkPolicy shop/web"
	path   string
	line   int // of the value, or of what would hold it
	value  *value
}

func (c cursor) there() bool { return !c.value.isNull() }

// fault says what is wrong here.
func (c cursor) fault(message string, args ...any) {
	c.run.fault(c.file, c.line, c.path, message, args...)
}

// find adds a finding about this place.
func (c cursor) find(effect Effect, means, did string) {
	c.run.found(Finding{File: c.file, Line: c.line, Object: c.object, Field: c.path, Means: means, Did: did, Effect: effect})
}

// get returns a field of an object.
func (c cursor) get(key string) cursor {
	out := c
	out.path = strings.TrimPrefix(c.path+"."+key, ".")
	out.value = nil
	if c.value.isObject() {
		if v := c.value.fields[key]; v != nil {
			out.value, out.line = v, v.line
		}
	}
	return out
}

// in walks down: in("spec", "subject").
func (c cursor) in(keys ...string) cursor {
	for _, k := range keys {
		c = c.get(k)
	}
	return c
}

// wantObject adds a fault where something else than an object is there.
func (c cursor) wantObject() bool {
	if c.there() && !c.value.isObject() {
		c.fault("is %s; want an object", c.describe())
	}
	return c.value.isObject()
}

// items returns those of a list.
func (c cursor) items() []cursor {
	if !c.there() {
		return nil
	}
	if !c.value.isList {
		c.fault("is %s; want a list", c.describe())
		return nil
	}
	out := make([]cursor, len(c.value.list))
	for i, v := range c.value.list {
		out[i] = c
		out[i].path = fmt.Sprintf("%s[%d]", c.path, i)
		out[i].value, out[i].line = v, v.line
	}
	return out
}

// text returns a string, "" for none.
func (c cursor) text() string {
	if !c.there() {
		return ""
	}
	s, ok := c.value.scalar.(string)
	if !ok {
		c.fault("is %s; want text, put it in quotes", c.describe())
	}
	return s
}

// texts returns a list of strings.
func (c cursor) texts() []string {
	var out []string
	for _, i := range c.items() {
		out = append(out, i.text())
	}
	return out
}

// truth returns a truth value, false for none.
func (c cursor) truth() bool {
	if !c.there() {
		return false
	}
	b, ok := c.value.scalar.(bool)
	if !ok {
		c.fault("is %s; want true or false", c.describe())
	}
	return b
}

// whole returns a whole number within limits.
func (c cursor) whole(least, most int) (int, bool) {
	if !c.there() {
		return 0, false
	}
	f, ok := c.float()
	if !ok || f != math.Trunc(f) {
		c.fault("is %s; want a whole number from %d to %d", c.describe(), least, most)
		return 0, false
	}
	if f < float64(least) || f > float64(most) {
		c.fault("%v is outside %d to %d", f, least, most)
		return 0, false
	}
	return int(f), true
}

// float returns a number.
func (c cursor) float() (float64, bool) {
	switch n := c.value.scalar.(type) {
	case int64:
		return float64(n), true
	case uint64:
		return float64(n), true
	case int:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

// others returns the fields that are not among those known, as written.
func (c cursor) others(known ...string) []cursor {
	if !c.value.isObject() {
		return nil
	}
	var out []cursor
	for _, k := range c.value.order {
		if !slices.Contains(known, k) && !c.value.fields[k].isNull() {
			out = append(out, c.get(k))
		}
	}
	return out
}

func (c cursor) describe() string {
	v := c.value
	switch {
	case v.isNull():
		return "empty"
	case v.isObject():
		return "an object"
	case v.isList:
		return "a list"
	}
	switch s := v.scalar.(type) {
	case string:
		if len(s) > 100 {
			s = s[:100] + "…"
		}
		return fmt.Sprintf("the text %q", s)
	case bool:
		return fmt.Sprintf("the truth value %t", s)
	}
	return fmt.Sprintf("the number %v", v.scalar)
}
