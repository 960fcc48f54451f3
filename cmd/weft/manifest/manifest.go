// Package manifest reads resources from YAML files and says of each fault in
// which file and line it is.
package manifest

import (
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
}

// Faults is every fault of every file.
type Faults []string

func (f Faults) Error() string { return strings.Join(f, "\n") }

// Load reads files, the *.yaml, *.yml and *.json of directories, and standard
// input for "-". The error is a Faults where the content is at fault.
func Load(paths []string, stdin io.Reader) ([]Item, error) {
	var items []Item
	var faults Faults
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
			more, wrong := Parse(name, data)
			items, faults = append(items, more...), append(faults, wrong...)
		}
	}
	if len(faults) == 0 {
		faults = duplicates(items)
	}
	if len(faults) > 0 {
		return nil, faults
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("%s: no resource in it", strings.Join(paths, ", "))
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
	parsed, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, Faults{syntaxFault(file, err)}
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
			item := Item{File: file, Line: node.GetToken().Position.Line, node: node}
			if m, ok := node.(*ast.MappingNode); ok && len(m.Values) > 0 {
				item.Line = m.Values[0].Key.GetToken().Position.Line
			}
			var v any
			if err := yaml.NodeToValue(node, &v); err != nil {
				faults = append(faults, syntaxFault(file, err))
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

func syntaxFault(file string, err error) string {
	var y yaml.Error
	if errors.As(err, &y) && y.GetToken() != nil {
		return fmt.Sprintf("%s:%d: %s", file, y.GetToken().Position.Line, y.GetMessage())
	}
	return fmt.Sprintf("%s: %v", file, err)
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
			line = at.GetToken().Position.Line
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
