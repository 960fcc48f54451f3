package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"weft/internal/golden"
)

// The reference is made of the very help texts.
func TestAgentCommandReferenceIsCurrent(t *testing.T) {
	root := newRootCommand()
	root.InitDefaultHelpFlag()
	var b strings.Builder
	b.WriteString("# The agent's command line\n\nMade from the program by `go test ./cmd/weft-agent -run Reference -update`; change the help texts there.\n\n" +
		"Flags go over the [configuration file](agent-config.md). Exit status: 0 for success, 1 for an error.\n")
	for _, c := range root.Commands() {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		reference(&b, c)
	}
	golden.Equal(t, "../../../docs/reference/agent-cli.md", b.String())
}

func reference(b *strings.Builder, c *cobra.Command) {
	long := c.Long
	if long == "" {
		long = c.Short + "."
	}
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n```\n%s\n```\n", c.CommandPath(), long, c.UseLine())
	if c.Example != "" {
		fmt.Fprintf(b, "\nExamples:\n\n```\n%s\n```\n", c.Example)
	}
	c.InitDefaultHelpFlag()
	if flags := c.NonInheritedFlags().FlagUsagesWrapped(100); strings.TrimSpace(flags) != "" {
		fmt.Fprintf(b, "\nFlags:\n\n```\n%s```\n", flags)
	}
}

// The page is made of the comments and defaults of the config struct.
func TestAgentConfigReferenceIsCurrent(t *testing.T) {
	comments := fieldComments(t, "config.go", "config")
	defaults := defaultConfig()
	defaults.Name = "" // of the machine that the test runs on
	types, values := reflect.TypeFor[config](), reflect.ValueOf(defaults)
	var b strings.Builder
	b.WriteString("# agent.yaml\n\nMade from the code by `go test ./cmd/weft-agent -run Reference -update`; change the comments there.\n\n" +
		"`" + defaultConfigFile + "` is the agent's configuration. Only `controller` must be given. A field that is not known is an error,\n" +
		"which names the line. `weft-agent run --check` checks the file, `--print-config` prints what is in force.\n" +
		"The file is read at the start: after a change, `systemctl restart weft-agent`; taps go on meanwhile.\n\n" +
		"| field | type | default | meaning |\n|---|---|---|---|\n")
	for i := range types.NumField() {
		f := types.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		comment := comments[f.Name]
		if name == "" || comment == "" {
			t.Errorf("config.%s needs a yaml tag and a comment: they are its documentation", f.Name)
		}
		value, err := yaml.MarshalWithOptions(values.Field(i).Interface(), yaml.Flow(true))
		if err != nil {
			t.Fatal(err)
		}
		shown := "`" + strings.Trim(strings.TrimSpace(string(value)), `"`) + "`"
		if values.Field(i).IsZero() {
			shown = ""
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, typeWord(f.Type), shown, comment)
	}
	golden.Equal(t, "../../../docs/reference/agent-config.md", b.String())
}

func typeWord(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Struct:
		return "objects"
	case reflect.Slice:
		return "list of " + typeWord(t.Elem())
	case reflect.Map:
		return "map of " + typeWord(t.Key()) + " to " + typeWord(t.Elem())
	}
	return t.String()
}

// fieldComments returns the comment of each field of a struct in a file.
func fieldComments(t *testing.T, file, name string) map[string]string {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	ast.Inspect(tree, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != name {
			return true
		}
		for _, f := range spec.Type.(*ast.StructType).Fields.List {
			for _, id := range f.Names {
				out[id.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
			}
		}
		return false
	})
	return out
}
