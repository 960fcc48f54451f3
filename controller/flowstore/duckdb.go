package flowstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"github.com/duckdb/duckdb-go/v2/mapping"
)

// duckdb is the embedded database. It is used by the functions of its C API, for
// these take and give whole columns: by database/sql each value is boxed.
type duckdb struct {
	db     mapping.Database
	mu     sync.Mutex // of writer
	writer mapping.Connection

	asking    sync.Mutex // of what follows
	questions int        // under way
	threads   int        // that DuckDB works with
}

// logged is how much DuckDB writes to its log before it makes columns of it: often
// costs more than all else, and what is in the log is read again at a start.
const logged = "128MB"

// memory is how much DuckDB may take, and disk how much of what does not fit there it
// may write beside its file for the time of a question.
const (
	memory = "1GB"
	disk   = "4GB"
)

// options of DuckDB. Nothing is to be fetched from anywhere, whatever a query
// names. The file is for this DuckDB, not for older ones too: that takes a third
// less work. Row groups that are not full stay as they are: making full ones of
// them writes all rows twice, and what is forgotten is whole days, which go
// without it.
var options = [][2]string{
	{"autoinstall_known_extensions", "false"}, {"autoload_known_extensions", "false"}, {"memory_limit", memory}, {"max_temp_directory_size", disk}, {"checkpoint_threshold", logged}, {"storage_compatibility_version", "latest"},
	{"max_vacuum_tasks", "0"}, {"threads", "1"},
}

var duckdbDialect = dialect{
	name: "DuckDB", transactions: true,
	unsigned: "UBIGINT",
	contains: func(s, piece string) string { return "contains(" + s + ", " + piece + ")" },
	labelled: func(s, after string) string {
		return "split_part(split_part(" + s + ", " + after + ", 2), '" + labelEnds + "', 1)"
	},
	before: func(s, character string) string { return "split_part(" + s + ", '" + character + "', 1)" },
}

// openDuckDB opens a file, or makes it; no name keeps all in memory.
func openDuckDB(file string) (*duckdb, error) {
	d := &duckdb{threads: 1}
	var config mapping.Config
	if mapping.CreateConfig(&config) == mapping.StateError {
		return nil, errors.New("open the database of flows: no memory")
	}
	defer mapping.DestroyConfig(&config)
	for _, o := range options {
		if mapping.SetConfig(config, o[0], o[1]) == mapping.StateError {
			return nil, fmt.Errorf("open the database of flows: DuckDB does not know %s", o[0])
		}
	}
	var message string
	if mapping.OpenExt(file, &d.db, config, &message) == mapping.StateError {
		return nil, fmt.Errorf("open the database of flows: %s", message)
	}
	if mapping.Connect(d.db, &d.writer) == mapping.StateError {
		mapping.Close(&d.db)
		return nil, fmt.Errorf("open the database of flows %s: no connection", file)
	}
	return d, nil
}

func (d *duckdb) dialect() *dialect { return &duckdbDialect }

func (d *duckdb) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	mapping.Disconnect(&d.writer)
	mapping.Close(&d.db)
	return nil
}

var duckdbTypes = map[kind]string{u8: "UTINYINT", u16: "USMALLINT", u32: "UINTEGER", u64: "UBIGINT", text: "VARCHAR", word: "VARCHAR"}

func (d *duckdb) ensure(ctx context.Context, tables ...*table) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range tables {
		var list []string
		for _, c := range t.columns {
			list = append(list, fmt.Sprintf("%q %s NOT NULL", c.name, duckdbTypes[c.kind]))
		}
		if _, err := d.run(ctx, d.writer, ask("CREATE TABLE IF NOT EXISTS "+t.name+" ("+strings.Join(list, ", ")+")"), nil); err != nil {
			return err
		}
	}
	return nil
}

func (d *duckdb) query(ctx context.Context, q *statement, kinds ...kind) (*answer, error) {
	var c mapping.Connection
	if mapping.Connect(d.db, &c) == mapping.StateError {
		return nil, errors.New("DuckDB: no connection")
	}
	defer mapping.Disconnect(&c)
	if err := d.share(ctx, c, 1); err != nil {
		return nil, err
	}
	defer d.share(ctx, c, -1)
	return d.run(ctx, c, q, kinds)
}

// share counts questions under way, more or fewer of them. For those DuckDB works
// with all processors. A write that finds none works with the caller's own: little
// of it can be shared out, and whoever waits for another thread's part of it does so
// at a processor's cost.
func (d *duckdb) share(ctx context.Context, c mapping.Connection, more int) error {
	d.asking.Lock()
	defer d.asking.Unlock()
	d.questions += more
	threads := d.threads // a question that is over leaves them to the next
	switch {
	case more > 0:
		threads = runtime.GOMAXPROCS(0)
	case more == 0 && d.questions == 0:
		threads = 1
	}
	if threads == d.threads {
		return nil
	}
	if _, err := d.run(ctx, c, ask(fmt.Sprintf("SET threads = %d", threads)), nil); err != nil {
		d.questions -= more
		return err
	}
	d.threads = threads
	return nil
}

// run executes a statement. It ends early when ctx does.
func (d *duckdb) run(ctx context.Context, c mapping.Connection, q *statement, kinds []kind) (*answer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var st mapping.PreparedStatement
	defer mapping.DestroyPrepare(&st)
	if mapping.Prepare(c, string(q.words), &st) == mapping.StateError {
		return nil, fmt.Errorf("DuckDB: %s", mapping.PrepareError(st))
	}
	for i, v := range q.args {
		n, state := mapping.IdxT(i+1), mapping.StateError
		switch v := v.(type) {
		case uint64:
			state = mapping.BindUInt64(st, n, v)
		case string:
			state = mapping.BindVarcharLength(st, n, v, mapping.IdxT(len(v)))
		}
		if state == mapping.StateError {
			return nil, fmt.Errorf("DuckDB: argument %d, %T, is not taken", i+1, v)
		}
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		mapping.Interrupt(c)
		close(interrupted)
	})
	var r mapping.Result
	state := mapping.ExecutePrepared(st, &r)
	if !stop() {
		<-interrupted // the connection is not to go before it
	}
	defer mapping.DestroyResult(&r)
	if state == mapping.StateError {
		message := mapping.ResultError(&r)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case mapping.ResultErrorType(&r) == mapping.ErrorTypeOutOfMemory:
			message, _, _ = strings.Cut(message, "\n") // the rest is advice for whoever runs a DuckDB
			return nil, fmt.Errorf("%w: %s", errTooMuch, message)
		}
		return nil, fmt.Errorf("DuckDB: %s", message)
	}
	out := newAnswer(kinds)
	for len(kinds) > 0 {
		chunk := mapping.FetchChunk(r)
		if chunk.Ptr == nil {
			break
		}
		n := int(mapping.DataChunkGetSize(chunk))
		for i, k := range kinds {
			data := mapping.VectorGetData(mapping.DataChunkGetVector(chunk, mapping.IdxT(i)))
			if k != text && k != word {
				out.numbers[i] = append(out.numbers[i], unsafe.Slice((*uint64)(data), n)...)
				continue
			}
			for _, s := range unsafe.Slice((*mapping.StringT)(data), n) {
				out.texts[i] = append(out.texts[i], mapping.StringTData(&s))
			}
		}
		out.rows += n
		mapping.DestroyDataChunk(&chunk)
	}
	return out, nil
}

func (d *duckdb) write(ctx context.Context, steps ...step) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.share(ctx, d.writer, 0); err != nil {
		return err
	}
	if _, err := d.run(ctx, d.writer, ask("BEGIN"), nil); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_, failed := d.run(context.WithoutCancel(ctx), d.writer, ask("ROLLBACK"), nil)
			err = errors.Join(err, failed)
		}
	}()
	for _, s := range steps {
		if s.rows != nil {
			err = d.append(s.rows)
		} else {
			_, err = d.run(ctx, d.writer, ask("INSERT INTO "+s.into.name+" ").add(string(s.from.words), s.from.args...), nil)
		}
		if err != nil {
			return err
		}
	}
	_, err = d.run(ctx, d.writer, ask("COMMIT"), nil)
	return err
}

// append adds rows. The transaction is the writer's.
func (d *duckdb) append(b *block) error {
	var a mapping.Appender
	defer mapping.AppenderDestroy(&a)
	if mapping.AppenderCreate(d.writer, "", b.table.name, &a) == mapping.StateError {
		return fmt.Errorf("DuckDB: append to %s: %s", b.table.name, mapping.AppenderError(a))
	}
	types := make([]mapping.LogicalType, len(b.values))
	defer func() {
		for i := range types {
			mapping.DestroyLogicalType(&types[i])
		}
	}()
	for i := range types {
		types[i] = mapping.AppenderColumnType(a, mapping.IdxT(i))
	}
	chunk := mapping.CreateDataChunk(types)
	defer mapping.DestroyDataChunk(&chunk)
	size := int(mapping.VectorSize())
	seen := map[string]shortString{}
	for from := 0; from < b.rows; from += size {
		n := min(size, b.rows-from)
		mapping.DataChunkReset(chunk)
		for i, values := range b.values {
			v := mapping.DataChunkGetVector(chunk, mapping.IdxT(i))
			data := mapping.VectorGetData(v)
			switch list := values.(type) {
			case *[]uint8:
				copy(unsafe.Slice((*uint8)(data), n), (*list)[from:])
			case *[]uint16:
				copy(unsafe.Slice((*uint16)(data), n), (*list)[from:])
			case *[]uint32:
				copy(unsafe.Slice((*uint32)(data), n), (*list)[from:])
			case *[]uint64:
				copy(unsafe.Slice((*uint64)(data), n), (*list)[from:])
			case *[]string:
				clear(seen)
				fillStrings(v, unsafe.Slice((*shortString)(data), n), (*list)[from:from+n], seen)
			}
		}
		mapping.DataChunkSetSize(chunk, mapping.IdxT(n))
		if mapping.AppendDataChunk(a, chunk) == mapping.StateError {
			return fmt.Errorf("DuckDB: append to %s: %s", b.table.name, mapping.AppenderError(a))
		}
	}
	if mapping.AppenderClose(a) == mapping.StateError {
		return fmt.Errorf("DuckDB: append to %s: %s", b.table.name, mapping.AppenderError(a))
	}
	return nil
}

// shortString is duckdb_string_t as duckdb.h has it: a length, then up to twelve
// bytes of text and zeros, or of a longer one the beginning and where it is.
type shortString struct {
	length uint32
	bytes  [12]byte
}

// fillStrings writes a column. What a vector points to it owns, and equal strings
// can share it: calling out of Go for each would cost more than all else.
func fillStrings(v mapping.Vector, data []shortString, list []string, seen map[string]shortString) {
	last := ""
	for i, s := range list {
		switch {
		case len(s) <= len(shortString{}.bytes):
			data[i] = shortString{length: uint32(len(s))}
			copy(data[i].bytes[:], s)
		case i > 0 && s == last:
			data[i] = data[i-1]
		default:
			at, ok := seen[s]
			if !ok {
				mapping.VectorAssignStringElement(v, mapping.IdxT(i), s)
				at = data[i]
				seen[s] = at
			}
			data[i] = at
		}
		last = s
	}
}

// forget goes by ids, which rows are in the order of: whichever row is found, those
// up to it and some more are old. What else there is is passed over by what DuckDB
// knows of each row group.
func (d *duckdb) forget(ctx context.Context, t *table, part uint32, ids uint64) (more bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, err := d.run(ctx, d.writer, ask("SELECT id FROM "+t.name+" WHERE part < ? LIMIT 1", uint64(part)), []kind{u64})
	if err != nil || a.rows == 0 {
		return false, err
	}
	_, err = d.run(ctx, d.writer, ask("DELETE FROM "+t.name+" WHERE part < ? AND id < ?", uint64(part), a.numbers[0][0]+ids), nil)
	return true, err
}
