package topology

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxFile bounds what Parse reads; a topology of 1,000 hosts has 50 KiB.
const maxFile = 4 << 20

// Error is one fault in a topology file.
type Error struct {
	File  string
	Line  int
	Field string // such as spec.hosts[2].attach
	// Message says what is wrong and what to do.
	Message string
}

func (e Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Field != "" {
		b.WriteString(": " + e.Field)
	}
	return b.String() + ": " + e.Message
}

// Errors are all faults found in a file, in its order.
type Errors []Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// located is an error from within decoding that knows its node.
type located struct {
	token   *token.Token
	path    string
	message string
}

func (l *located) Error() string { return l.message }

func at(node ast.Node, message string) error {
	return &located{node.GetToken(), node.GetPath(), message}
}

// Load reads and checks a topology file.
func Load(path string) (*Topology, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Parse reads and checks a topology; name stands for the file in errors, which
// are of type Errors.
func Parse(name string, data []byte) (*Topology, error) {
	if len(data) > maxFile {
		return nil, Errors{{File: name, Message: fmt.Sprintf("file is %d bytes long; %d at most", len(data), maxFile)}}
	}
	file, err := parse(data)
	if err != nil {
		return nil, Errors{syntaxError(name, nil, err)}
	}
	docs := slices.DeleteFunc(file.Docs, func(d *ast.DocumentNode) bool { return d.Body == nil })
	if len(docs) != 1 {
		return nil, Errors{{File: name, Message: fmt.Sprintf("file holds %d documents; write exactly one topology", len(docs))}}
	}
	var t Topology
	if err := decode(docs[0].Body, &t); err != nil {
		return nil, Errors{syntaxError(name, docs[0].Body, err)}
	}
	v := validator{file: name, root: docs[0].Body, topology: &t}
	v.run()
	if len(v.errs) > 0 {
		slices.SortStableFunc(v.errs, func(a, b Error) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Message, b.Message))
		})
		return nil, v.errs
	}
	return &t, nil
}

// errMalformed stands for a panic of the YAML library, which some malformed
// documents bring about (a tag without a value, for one).
var errMalformed = errors.New("file is no YAML that can be read; look for a tag (!) or a value left out")

func parse(data []byte) (file *ast.File, err error) {
	defer func() {
		if recover() != nil {
			err = errMalformed
		}
	}()
	return parser.ParseBytes(data, 0)
}

func decode(body ast.Node, t *Topology) (err error) {
	defer func() {
		if recover() != nil {
			err = errMalformed
		}
	}()
	return yaml.NodeToValue(body, t, yaml.Strict())
}

func syntaxError(file string, root ast.Node, err error) Error {
	var l *located
	if errors.As(err, &l) {
		return Error{File: file, Line: l.token.Position.Line, Field: strings.TrimPrefix(l.path, "$."), Message: l.message}
	}
	out := Error{File: file, Message: err.Error()}
	var y yaml.Error
	if !errors.As(err, &y) {
		return out
	}
	out.Message = y.GetMessage()
	tk := y.GetToken()
	if tk == nil {
		return out
	}
	out.Line = tk.Position.Line
	if root != nil {
		out.Field = pathOf(root, tk)
	}
	var unknown *yaml.UnknownFieldError
	if errors.As(err, &unknown) {
		parent := out.Field[:max(0, strings.LastIndexByte(out.Field, '.'))]
		out.Message = fmt.Sprintf("unknown field; known are %s", strings.Join(fieldsAt(parent), ", "))
	}
	return out
}

// pathOf finds the path of the node that a token belongs to.
func pathOf(root ast.Node, tk *token.Token) string {
	var best string
	ast.Walk(visitor(func(n ast.Node) {
		if mv, ok := n.(*ast.MappingValueNode); ok && mv.Key.GetToken().Position.Offset == tk.Position.Offset {
			best = mv.Key.GetPath()
		} else if best == "" && n.GetToken() != nil && n.GetToken().Position.Offset == tk.Position.Offset {
			best = n.GetPath()
		}
	}), root)
	return strings.TrimPrefix(best, "$.")
}

type visitor func(ast.Node)

func (v visitor) Visit(n ast.Node) ast.Visitor { v(n); return v }

// fieldsAt names the fields of the type at a path.
func fieldsAt(path string) []string {
	t := reflect.TypeFor[Topology]()
	for _, part := range strings.Split(path, ".") {
		if path == "" {
			break
		}
		name, _, _ := strings.Cut(part, "[")
		f, ok := fieldNamed(t, name)
		if !ok {
			break
		}
		t = f.Type
		for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
	}
	return fieldNames(t)
}

func yamlName(f reflect.StructField) (name string, inline bool) {
	name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name, opts == "inline"
}

func fieldNamed(t reflect.Type, name string) (reflect.StructField, bool) {
	if t.Kind() != reflect.Struct {
		return reflect.StructField{}, false
	}
	for f := range t.Fields() {
		if n, _ := yamlName(f); n == name {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func fieldNames(t reflect.Type) []string {
	var names []string
	if t.Kind() != reflect.Struct {
		return nil
	}
	for f := range t.Fields() {
		n, inline := yamlName(f)
		switch {
		case inline:
			names = append(names, fieldNames(f.Type)...)
		case n != "":
			names = append(names, n)
		}
	}
	return names
}
