package importing

import (
	"bytes"
	"errors"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// parseYAML returns the documents of a file.
func (r *run) parseYAML(f File) []*value {
	var out []*value
	if line, deep := tooDeep(f.Data); deep {
		r.fault(f.Name, line, "", "is nested deeper than %d; no manifest is", maxDepth)
		return nil
	}
	before := 0
	for _, text := range documents(f.Data) {
		parsed, err := parser.ParseBytes(text, 0)
		if err != nil {
			line, message := syntax(err)
			r.fault(f.Name, before+line, "", "%s", message)
			return nil
		}
		for _, doc := range parsed.Docs {
			y := yamlReader{run: r, before: before, anchors: map[string]ast.Node{}}
			v, err := y.value(doc.Body, 0)
			if err != nil {
				r.fault(f.Name, max(y.line, before+1), "", "cannot be read: %v", err)
				return nil
			}
			if !v.isNull() {
				out = append(out, v)
			}
		}
		before += bytes.Count(text, []byte("\n"))
	}
	return out
}

// documents cuts a file at its "---" lines and keeps every line in its place.
func documents(data []byte) [][]byte {
	docs := [][]byte{nil}
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte("---")); ok && (len(rest) == 0 || bytes.ContainsRune([]byte(" \t\r\n"), rune(rest[0]))) {
			docs = append(docs, nil)
			line = append([]byte("   "), rest...)
		}
		docs[len(docs)-1] = append(docs[len(docs)-1], line...)
	}
	return docs
}

// tooDeep looks for nesting that would exhaust the parser's stack. It counts
// brackets in text too: no manifest comes near the limit.
func tooDeep(data []byte) (int, bool) {
	depth, line := 0, 0
	for text := range bytes.Lines(data) {
		line++
		if bytes.Count(text, []byte("- ")) > 10*maxDepth && strings.HasPrefix(strings.Trim(string(text), " "), strings.Repeat("- ", maxDepth)) {
			return line, true
		}
		if bytes.Count(text, []byte("? ")) > maxDepth || bytes.Count(text, []byte("?\t")) > maxDepth {
			return line, true
		}
		for _, c := range text {
			switch c {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(0, depth-1)
			}
		}
		if depth > 10*maxDepth {
			return line, true
		}
	}
	return 0, false
}

func syntax(err error) (int, string) {
	var y yaml.Error
	if errors.As(err, &y) && y.GetToken() != nil {
		return y.GetToken().Position.Line, y.GetMessage()
	}
	return 1, err.Error()
}

// yamlReader turns a document's nodes into values.
type yamlReader struct {
	run          *run
	before, line int
	anchors      map[string]ast.Node
	open         []string // aliases being read
}

func (y *yamlReader) value(n ast.Node, depth int) (*value, error) {
	if n == nil {
		return &value{line: y.before + 1}, nil
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		y.line = y.before + t.Position.Line
	}
	if y.run.values++; y.run.values > maxValues {
		return nil, errMany
	}
	if depth > maxDepth {
		return nil, errDeep
	}
	v := &value{line: y.line}
	switch n := n.(type) {
	case *ast.MappingNode:
		v.fields = map[string]*value{}
		for i, pair := range n.Values {
			if err := y.pair(v, pair, depth); err != nil {
				return nil, err
			}
			if i == 0 {
				v.line = y.before + pair.Key.GetToken().Position.Line
			}
		}
	case *ast.MappingValueNode:
		v.fields = map[string]*value{}
		v.line = y.before + n.Key.GetToken().Position.Line
		return v, y.pair(v, n, depth)
	case *ast.SequenceNode:
		v.isList = true
		for _, item := range n.Values {
			child, err := y.value(item, depth+1)
			if err != nil {
				return nil, err
			}
			v.list = append(v.list, child)
		}
	case *ast.AnchorNode:
		y.anchors[n.Name.GetToken().Value] = n.Value
		return y.value(n.Value, depth+1)
	case *ast.AliasNode:
		return y.alias(n, depth)
	case *ast.TagNode:
		return y.value(n.Value, depth+1)
	case *ast.CommentGroupNode, *ast.NullNode:
	case *ast.LiteralNode:
		v.scalar = n.Value.Value
	case *ast.FloatNode:
		v.scalar = n.Value
	case *ast.IntegerNode:
		v.scalar = n.Value
	case *ast.BoolNode:
		v.scalar = n.Value
	case *ast.StringNode:
		v.scalar = n.Value
	default:
		return nil, errors.New("a value of this kind has no meaning in a manifest: " + n.Type().String())
	}
	return v, nil
}

func (y *yamlReader) pair(v *value, pair *ast.MappingValueNode, depth int) error {
	if pair.Key.IsMergeKey() {
		return errors.New("has a merge key (<<); write the fields out")
	}
	key := strings.Trim(pair.Key.GetToken().Value, `"'`)
	if v.fields[key] != nil {
		y.line = y.before + pair.Key.GetToken().Position.Line
		return errTwice
	}
	line := y.before + pair.Key.GetToken().Position.Line
	child, err := y.value(pair.Value, depth+1)
	if err != nil {
		return err
	}
	child.line = line
	v.fields[key] = child
	v.order = append(v.order, key)
	return nil
}

func (y *yamlReader) alias(n *ast.AliasNode, depth int) (*value, error) {
	name := n.Value.GetToken().Value
	target, ok := y.anchors[name]
	if !ok {
		return nil, errors.New("names the anchor " + name + ", which is not above it")
	}
	for _, o := range y.open {
		if o == name {
			return nil, errors.New("the anchor " + name + " contains itself")
		}
	}
	y.open = append(y.open, name)
	defer func() { y.open = y.open[:len(y.open)-1] }()
	line := y.line
	v, err := y.value(target, depth+1)
	if v != nil {
		v.line = line
	}
	return v, err
}
