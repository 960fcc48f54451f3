package flowstore

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// clickhouse is a ClickHouse server, by its HTTP interface: of all it has, the one
// that servers of 2018 and of today speak alike. Rows travel as RowBinary.
type clickhouse struct {
	url      url.URL
	database string
	user     string
	password string
	client   *http.Client
	known    map[string]bool // settings that this server has
	memory   string          // that one question may take of the server's, in bytes
}

var clickhouseDialect = dialect{
	name:     "ClickHouse",
	unsigned: "UInt64",
	contains: func(s, piece string) string { return "position(" + s + ", " + piece + ") > 0" },
	labelled: func(s, after string) string {
		return "splitByString('" + labelEnds + "', splitByString(" + after + ", CAST(" + s + " AS String))[2])[1]"
	},
	before: func(s, character string) string {
		return "splitByString('" + character + "', CAST(" + s + " AS String))[1]"
	},
}

// answersWithin is how long ClickHouse may take for what has no other limit.
const answersWithin = 5 * time.Minute

// openClickHouse takes a URL as http://USER@HOST:8123/DATABASE. It makes the
// database, not the user.
func openClickHouse(address, password string) (*clickhouse, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is no address of ClickHouse's HTTP interface; it is to be as http://USER@HOST:8123/DATABASE", redacted(address))
	}
	if _, inURL := u.User.Password(); inURL {
		return nil, errors.New("a password is not for a command line; give it in a file (--clickhouse-password-file)")
	}
	database := strings.Trim(u.Path, "/")
	if database == "" {
		database = "weft"
	}
	if strings.Trim(database, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		return nil, fmt.Errorf("database %q: a name has letters, digits and _", database)
	}
	c := &clickhouse{url: *u, database: database, user: u.User.Username(), password: password, client: &http.Client{}, memory: clickhouseMemory}
	c.url.User, c.url.Path = nil, "/"
	return c, nil
}

// What is wanted of a server that has it.
const (
	asyncInsert    = "async_insert"
	lowCardinality = "allow_experimental_low_cardinality_type" // before version 19 the type had to be allowed
)

// learn finds out which settings the server has: one that it does not know it
// refuses.
func (c *clickhouse) learn(ctx context.Context) error {
	a, err := c.query(ctx, ask("SELECT name FROM system.settings WHERE name IN (?, ?)", asyncInsert, lowCardinality), text)
	if err != nil {
		return err
	}
	c.known = map[string]bool{}
	for _, name := range a.texts[0] {
		c.known[name] = true
	}
	return nil
}

// where is settings for a server that has them.
func (c *clickhouse) where(name, value string) url.Values {
	if !c.known[name] {
		return nil
	}
	return url.Values{name: {value}}
}

// redacted is an address without what may be a password.
func redacted(address string) string {
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		return "…" + address[at:]
	}
	return address
}

func (c *clickhouse) dialect() *dialect { return &clickhouseDialect }

func (c *clickhouse) close() error {
	c.client.CloseIdleConnections()
	return nil
}

var clickhouseTypes = map[kind]string{u8: "UInt8", u16: "UInt16", u32: "UInt32", u64: "UInt64", text: "String", word: "LowCardinality(String)"}

func (c *clickhouse) ensure(ctx context.Context, tables ...*table) error {
	if err := c.do(ctx, "CREATE DATABASE IF NOT EXISTS "+c.database, url.Values{"database": {""}}, nil, nil); err != nil {
		return err
	}
	if err := c.learn(ctx); err != nil {
		return err
	}
	for _, t := range tables {
		var list []string
		for _, x := range t.columns {
			list = append(list, "`"+x.name+"` "+clickhouseTypes[x.kind])
		}
		create := "CREATE TABLE IF NOT EXISTS " + t.name + " (" + strings.Join(list, ", ") + ") ENGINE = MergeTree PARTITION BY part ORDER BY (" + t.order + ")"
		if err := c.do(ctx, create, c.where(lowCardinality, "1"), nil, nil); err != nil {
			return err
		}
	}
	return nil
}

func (c *clickhouse) query(ctx context.Context, q *statement, kinds ...kind) (*answer, error) {
	sql, err := literals(q)
	if err != nil {
		return nil, err
	}
	out := newAnswer(kinds)
	// What fails half way is to be an error, not the end of an answer.
	settings := url.Values{"wait_end_of_query": {"1"}, "max_memory_usage": {c.memory}, spill: {spillAt}, "readonly": {"2"},
		"max_query_size": {"4194304"}, "max_ast_elements": {"1000000"}, "max_expanded_ast_elements": {"1000000"}} // about many groups it is long
	if until, ok := ctx.Deadline(); ok {
		settings.Set("max_execution_time", strconv.Itoa(1+int(time.Until(until).Seconds())))
	}
	err = c.do(ctx, sql+" FORMAT RowBinary", settings, nil, func(r io.Reader) error { return readRows(r, kinds, out) })
	var refused *clickhouseError
	if errors.As(err, &refused) && (refused.code == memoryExceeded || refused.code == timeoutExceeded || refused.code == tooManyRows) {
		return nil, fmt.Errorf("%w: %w", errTooMuch, err)
	}
	return out, err
}

// clickhouseMemory is how much one question may take of the server's memory.
const clickhouseMemory = "2000000000"

// spill is the setting that lets sums go to disk, from so many bytes on.
const (
	spill   = "max_bytes_before_external_group_by"
	spillAt = "700000000"
)

func (c *clickhouse) write(ctx context.Context, steps ...step) error {
	ctx, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	settings := c.where(asyncInsert, "0") // an answer is to mean that it is written
	for _, s := range steps {
		t := s.into
		if s.rows != nil {
			t = s.rows.table
		}
		var names []string
		for _, x := range t.columns {
			names = append(names, "`"+x.name+"`")
		}
		insert := "INSERT INTO " + t.name + " (" + strings.Join(names, ", ") + ") "
		var err error
		if s.rows != nil {
			err = c.insert(ctx, insert+"FORMAT RowBinary", settings, s.rows)
		} else {
			var sql string
			if sql, err = literals(s.from); err == nil {
				settings := maps.Clone(settings)
				if settings == nil {
					settings = url.Values{}
				}
				settings.Set(spill, spillAt)
				err = c.insert(ctx, insert+sql, settings, nil)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *clickhouse) insert(ctx context.Context, sql string, settings url.Values, rows *block) error {
	if rows == nil {
		return c.do(ctx, sql, settings, nil, nil)
	}
	r, w := io.Pipe()
	defer r.Close() // ends the writer, where the server did not read to the end
	go func() {
		out := bufio.NewWriterSize(w, 1<<16)
		err := writeRows(out, rows)
		w.CloseWithError(errors.Join(err, out.Flush()))
	}()
	return c.do(ctx, sql, settings, r, nil)
}

func (c *clickhouse) forget(ctx context.Context, t *table, part uint32, _ uint64) (more bool, err error) {
	a, err := c.query(ctx, ask("SELECT DISTINCT CAST(part AS UInt64) FROM "+t.name+" WHERE part < ? LIMIT 2", uint64(part)), u64)
	if err != nil || a.rows == 0 {
		return false, err
	}
	return a.rows > 1, c.do(ctx, "ALTER TABLE "+t.name+" DROP PARTITION "+strconv.FormatUint(a.numbers[0][0], 10), nil, nil, nil)
}

// clickhouseError is what the server says is wrong.
type clickhouseError struct {
	code    int
	message string
}

// Codes of errors.
const (
	tooManyRows     = 158
	timeoutExceeded = 159
	memoryExceeded  = 241
)

func (e *clickhouseError) Error() string { return "ClickHouse: " + e.message }

// maxMessage bounds what is read of an error.
const maxMessage = 1 << 10

// do sends SQL, with data where there is any, and reads the answer.
func (c *clickhouse) do(ctx context.Context, sql string, settings url.Values, data io.Reader, read func(io.Reader) error) error {
	u := c.url
	values := url.Values{"database": {c.database}}
	maps.Copy(values, settings)
	if values.Get("database") == "" { // which is to be made
		values.Del("database")
	}
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, answersWithin)
		defer cancel()
	}
	body := data
	if data == nil {
		body = strings.NewReader(sql)
	} else {
		values.Set("query", sql)
	}
	u.RawQuery = values.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), body)
	if err != nil {
		return fmt.Errorf("ask ClickHouse: %w", err)
	}
	if c.user != "" {
		r.Header.Set("X-ClickHouse-User", c.user)
	}
	if c.password != "" {
		r.Header.Set("X-ClickHouse-Key", c.password)
	}
	resp, err := c.client.Do(r)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err // the URL has the whole question in it
		}
		return fmt.Errorf("%w: ClickHouse at %s: %w", ErrAway, c.url.Host, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
		message := string(bytes.ToValidUTF8(bytes.TrimSpace(text), nil))
		if message == "" {
			message = resp.Status
		}
		e := &clickhouseError{message: message}
		if rest, ok := strings.CutPrefix(message, "Code: "); ok {
			digits, _, _ := strings.Cut(rest, ",")
			digits, _, _ = strings.Cut(digits, ".")
			e.code, _ = strconv.Atoi(digits)
		}
		return e
	}
	if read == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	} else {
		err = read(resp.Body)
	}
	if err != nil {
		return fmt.Errorf("read what ClickHouse answers: %w", err)
	}
	return nil
}

// literals puts the arguments of a statement into its words: servers of 2018 take
// none beside them.
func literals(q *statement) (string, error) {
	var b strings.Builder
	rest := q.args
	for _, piece := range bytes.SplitAfter(q.words, []byte("?")) {
		words, is := bytes.CutSuffix(piece, []byte("?"))
		b.Write(words)
		if !is {
			continue
		}
		if len(rest) == 0 {
			return "", errors.New("a statement lacks an argument")
		}
		switch v := rest[0].(type) {
		case uint64:
			b.WriteString(strconv.FormatUint(v, 10))
		case string:
			b.WriteString(quoted(v))
		default:
			return "", fmt.Errorf("an argument of a statement is %T", v)
		}
		rest = rest[1:]
	}
	if len(rest) > 0 {
		return "", errors.New("a statement has too many arguments")
	}
	return b.String(), nil
}

// quoted is text as ClickHouse writes it: a backslash before what would end it.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('\'')
	for i := range len(s) {
		switch s[i] {
		case '\'', '\\':
			b.WriteByte('\\')
			b.WriteByte(s[i])
		case 0:
			b.WriteString(`\0`)
		default:
			b.WriteByte(s[i])
		}
	}
	b.WriteByte('\'')
	return b.String()
}

// writeRows writes RowBinary: numbers little-endian, text with its length before.
func writeRows(w *bufio.Writer, b *block) error {
	var number [binary.MaxVarintLen64]byte
	for i := range b.rows {
		for _, values := range b.values {
			out := number[:0]
			switch list := values.(type) {
			case *[]uint8:
				out = append(out, (*list)[i])
			case *[]uint16:
				out = binary.LittleEndian.AppendUint16(out, (*list)[i])
			case *[]uint32:
				out = binary.LittleEndian.AppendUint32(out, (*list)[i])
			case *[]uint64:
				out = binary.LittleEndian.AppendUint64(out, (*list)[i])
			case *[]string:
				s := (*list)[i]
				if _, err := w.Write(binary.AppendUvarint(out, uint64(len(s)))); err != nil {
					return err
				}
				if _, err := w.WriteString(s); err != nil {
					return err
				}
				continue
			}
			if _, err := w.Write(out); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxText is the longest text that is read.
const maxText = 1 << 20

// readRows reads RowBinary.
func readRows(from io.Reader, kinds []kind, out *answer) error {
	r := bufio.NewReaderSize(from, 1<<16)
	for {
		if _, err := r.Peek(1); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		for i, k := range kinds {
			if k != text && k != word {
				var number [8]byte
				if _, err := io.ReadFull(r, number[:]); err != nil {
					return whole(err)
				}
				out.numbers[i] = append(out.numbers[i], binary.LittleEndian.Uint64(number[:]))
				continue
			}
			n, err := binary.ReadUvarint(r)
			if err != nil {
				return whole(err)
			}
			if n > maxText {
				return fmt.Errorf("text of %d bytes", n)
			}
			s := make([]byte, n)
			if _, err := io.ReadFull(r, s); err != nil {
				return whole(err)
			}
			out.texts[i] = append(out.texts[i], string(s))
		}
		out.rows++
	}
}

// whole makes of an end within a row what it is.
func whole(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
