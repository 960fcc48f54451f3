// Package manifest reads resources from YAML files and says of each fault in
// which file and line it is.
package manifest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"weft/model"
)

// MaxFile bounds one file in bytes.
const MaxFile = 16 << 20

// Item is one resource and where it was read.
type Item struct {
	Resource model.Resource
	File     string
	Line     int
	node     ast.Node
	before   int // lines in the file before the document
}

// Faults is every fault of every file.
type Faults []string

func (f Faults) Error() string { return strings.Join(f, "\n") }

// Load reads files, the *.yaml, *.yml and *.json of directories, and standard
// input for "-". The error is a Faults where the content is at fault.
func Load(paths []string, stdin io.Reader) ([]Item, error) {
	var items []Item
	var faults Faults
	var names []string
	for _, path := range paths {
		files, err := expand(path)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			data, err := read(file, stdin)
			if err != nil {
				return nil, err
			}
			name := file
			if file == "-" {
				name = "stdin"
			}
			names = append(names, name)
			more, wrong := Parse(name, data)
			items, faults = append(items, more...), append(faults, wrong...)
		}
	}
	if len(faults) == 0 {
		faults = append(duplicates(items), circles(items)...)
	}
	if len(faults) > 0 {
		return nil, faults
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("%s: no resource in it", strings.Join(names, ", "))
	}
	return items, nil
}

func expand(path string) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read resources: %w", err)
	}
	if !st.IsDir() {
		return []string{path}, nil
	}
	var files []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if ext := filepath.Ext(p); err == nil && !d.IsDir() && (ext == ".yaml" || ext == ".yml" || ext == ".json") {
			files = append(files, p)
		}
		return err
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s holds no .yaml, .yml or .json file", path)
	}
	return files, err
}

func read(file string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read resources: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, MaxFile+1))
	if err == nil && len(data) > MaxFile {
		err = fmt.Errorf("larger than %d MiB", MaxFile>>20)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return data, nil
}

// Parse reads the documents of one file. A document may be a list of resources,
// as "weft get -o json" writes it.
func Parse(file string, data []byte) ([]Item, Faults) {
	var items []Item
	var faults Faults
	for _, d := range documents(data) {
		more, wrong := parseDocument(file, d)
		items, faults = append(items, more...), append(faults, wrong...)
	}
	return items, faults
}

// document is one of a file, and how many lines are before it.
type document struct {
	text   []byte
	before int
}

// documents cuts a file at its "---" lines, which mean nothing else anywhere in
// YAML (1.2, c-forbidden). The parser would drop what follows an empty document.
func documents(data []byte) []document {
	docs := []document{{}}
	line := 0
	for text := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(text, []byte("---")); ok && (len(rest) == 0 || bytes.ContainsRune([]byte(" \t\r\n"), rune(rest[0]))) {
			docs = append(docs, document{before: line})
			text = append([]byte("   "), rest...)
		}
		last := &docs[len(docs)-1]
		last.text = append(last.text, text...)
		line++
	}
	return docs
}

func parseDocument(file string, d document) ([]Item, Faults) {
	parsed, err := parser.ParseBytes(d.text, 0)
	if err != nil {
		return nil, Faults{syntaxFault(file, d.before, err)}
	}
	var items []Item
	var faults Faults
	for _, doc := range parsed.Docs {
		nodes := []ast.Node{doc.Body}
		if list, ok := doc.Body.(*ast.SequenceNode); ok {
			nodes = list.Values
		}
		for _, node := range nodes {
			if node == nil || node.Type() == ast.NullType || node.Type() == ast.CommentType {
				continue
			}
			item := Item{File: file, Line: d.before + lineOf(node), node: node, before: d.before}
			if m, ok := node.(*ast.MappingNode); ok && len(m.Values) > 0 {
				item.Line = d.before + lineOf(m.Values[0].Key)
			}
			var v any
			if err := yaml.NodeToValue(node, &v); err != nil {
				faults = append(faults, syntaxFault(file, d.before, err))
				continue
			}
			r, err := model.Decode(v)
			var wrong model.FieldErrors
			if errors.As(err, &wrong) {
				faults = append(faults, item.Explain(wrong)...)
				continue
			}
			item.Resource = r
			items = append(items, item)
		}
	}
	return items, faults
}

func lineOf(n ast.Node) int {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 1
}

func syntaxFault(file string, before int, err error) string {
	var y yaml.Error
	if errors.As(err, &y) && y.GetToken() != nil {
		return fmt.Sprintf("%s:%d: %s", file, before+y.GetToken().Position.Line, y.GetMessage())
	}
	return fmt.Sprintf("%s:%d: %v", file, before+1, err)
}

// Explain puts file and line before each fault, in the order of the lines.
func (i Item) Explain(faults []model.FieldError) []string {
	type placed struct {
		line int
		text string
	}
	list := make([]placed, len(faults))
	for n, f := range faults {
		line := i.Line
		if at := locate(i.node, f.Field); at != nil {
			line = i.before + lineOf(at)
		}
		list[n] = placed{line, fmt.Sprintf("%s:%d: %s", i.File, line, f)}
	}
	slices.SortStableFunc(list, func(a, b placed) int { return cmp.Compare(a.line, b.line) })
	out := make([]string, len(list))
	for n, p := range list {
		out[n] = p.text
	}
	return out
}

func duplicates(items []Item) Faults {
	var faults Faults
	seen := map[string]Item{}
	for _, i := range items {
		ref := model.Ref(i.Resource)
		if first, twice := seen[ref]; twice {
			faults = append(faults, fmt.Sprintf("%s:%d: %s is also at %s:%d; keep one of them", i.File, i.Line, ref, first.File, first.Line))
		}
		seen[ref] = i
	}
	return faults
}

// circles finds groups that contain themselves by way of others that are read
// with them, before the first of them is written.
func circles(items []Item) Faults {
	groups := map[string]*model.Group{}
	for _, i := range items {
		if g, ok := i.Resource.(*model.Group); ok {
			groups[g.Metadata.Name] = g
		}
	}
	var faults Faults
	for _, i := range items {
		g, ok := i.Resource.(*model.Group)
		if !ok {
			continue
		}
		for n, nested := range g.Spec.Groups {
			if path := model.GroupPath(groups, nested, g.Metadata.Name); path != nil {
				faults = append(faults, i.Explain([]model.FieldError{model.CircleFault(g.Metadata.Name, n, path)})...)
			}
		}
	}
	return faults
}

// Sort puts items in the order in which they are applied: by kind, groups after
// the groups they contain, otherwise as they were read.
func Sort(items []Item) {
	order := map[model.Kind]int{}
	for n, info := range model.Kinds {
		order[info.Kind] = n
	}
	groups := map[string]*model.Group{}
	for _, i := range items {
		if g, ok := i.Resource.(*model.Group); ok {
			groups[g.Metadata.Name] = g
		}
	}
	slices.SortStableFunc(items, func(a, b Item) int {
		if c := cmp.Compare(order[a.Resource.GetKind()], order[b.Resource.GetKind()]); c != 0 {
			return c
		}
		return cmp.Compare(depth(groups, a.Resource.Meta().Name, 0), depth(groups, b.Resource.Meta().Name, 0))
	})
}

// depth is how deep a group nests others; a circle, which the server refuses,
// ends at the number of groups.
func depth(groups map[string]*model.Group, name string, sofar int) int {
	g := groups[name]
	if g == nil || sofar > len(groups) {
		return sofar
	}
	deepest := sofar
	for _, n := range g.Spec.Groups {
		deepest = max(deepest, depth(groups, n, sofar+1))
	}
	return deepest
}
