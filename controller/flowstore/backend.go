package flowstore

import (
	"context"
	"errors"
)

// backend is a database. All that differs between databases is behind it and in
// dialect.
type backend interface {
	dialect() *dialect
	// ensure makes tables that are not there.
	ensure(ctx context.Context, tables ...*table) error
	// query returns the rows that a question has; numbers are read as uint64. Where an
	// answer takes more memory than it may, the error is errTooMuch.
	query(ctx context.Context, q *statement, kinds ...kind) (*answer, error)
	// write takes steps in order. With transactions it takes all or none of them;
	// without, an error may leave any number of them done, or to be done yet.
	write(ctx context.Context, steps ...step) error
	// forget removes some of what is in parts of a table that are lower than one, and
	// says whether there may be more: a part, where that is done at once, or rows of so
	// many ids.
	forget(ctx context.Context, t *table, part uint32, ids uint64) (more bool, err error)
	close() error
}

// ErrAway is of a database that cannot be reached: it may be there later.
var ErrAway = errors.New("the database of flows is away")

// step is a part of what is written together: rows, or what a query finds.
type step struct {
	rows *block
	// into takes what the statement finds, in the order of the table's columns.
	into *table
	from *statement
}

// dialect is how a database says things.
type dialect struct {
	name string
	// transactions says that steps are taken all together. Where they are not, ids
	// that may still come are fenced off.
	transactions bool
	// unsigned is the type of numbers of 64 bits without a sign.
	unsigned string
	// contains asks whether text has a piece in it.
	contains func(text, piece string) string
	// labelled is what is in the text of labels after a piece, up to where the label
	// ends; empty where the piece is not there.
	labelled func(text, after string) string
	// before is what is in text before a character, which is in it.
	before func(text, character string) string
}

// number casts an expression to what is read as a number.
func (d *dialect) number(expression string) string {
	return "CAST(" + expression + " AS " + d.unsigned + ")"
}

// statement is SQL under way. What people ask is in its arguments, never in its
// words.
type statement struct {
	words []byte
	args  []any // uint64 or string
}

func (s *statement) add(words string, args ...any) *statement {
	s.words, s.args = append(s.words, words...), append(s.args, args...)
	return s
}

// value adds an argument and returns what stands for it.
func (s *statement) value(v any) string {
	s.args = append(s.args, v)
	return "?"
}

func ask(words string, args ...any) *statement { return new(statement).add(words, args...) }

// answer is rows that a query found.
type answer struct {
	rows    int
	numbers [][]uint64 // by column; nil for text
	texts   [][]string // by column; nil for numbers
}

func newAnswer(kinds []kind) *answer {
	return &answer{numbers: make([][]uint64, len(kinds)), texts: make([][]string, len(kinds))}
}
