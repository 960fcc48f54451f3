package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"weft/internal/golden"
)

// The reference is made of the very help texts.
func TestCommandReferenceIsCurrent(t *testing.T) {
	root := newRootCommand()
	root.InitDefaultHelpFlag()
	var b strings.Builder
	b.WriteString("# Command line\n\nMade from the program by `go test ./cmd/weft -run Reference -update`; change the help texts there.\n\n" +
		"Exit status: 0 for success, 1 for an error (and for differences that `weft diff` finds), 2 for a wrong command line.\n\n" +
		"| variable | meaning |\n|---|---|\n" +
		"| `WEFT_SERVER` | the controller, in place of `--server` |\n| `WEFT_CONTEXT` | the context, in place of `--context` |\n" +
		"| `WEFT_CONFIG` | the file of contexts, in place of `~/.config/weft/config.yaml` |\n| `WEFT_SOCKET` | the socket of a controller on this machine, in place of `/run/weft/api.sock` |\n" +
		"| `NO_COLOR` | no colours, also on a terminal |\n| `VISUAL`, `EDITOR` | the editor of `weft edit` |\n")
	reference(&b, root)
	golden.Equal(t, "../../../docs/reference/cli.md", b.String())
}

func reference(b *strings.Builder, c *cobra.Command) {
	for _, sub := range c.Commands() {
		if sub.Hidden || sub.Name() == "help" {
			continue
		}
		fmt.Fprintf(b, "\n## %s\n\n", sub.CommandPath())
		long := sub.Long
		if long == "" {
			long = sub.Short + "."
		}
		fmt.Fprintf(b, "%s\n\n```\n%s\n```\n", long, sub.UseLine())
		if sub.Example != "" {
			fmt.Fprintf(b, "\nExamples:\n\n```\n%s\n```\n", sub.Example)
		}
		sub.InitDefaultHelpFlag()
		if flags := sub.NonInheritedFlags().FlagUsagesWrapped(100); strings.TrimSpace(flags) != "" {
			fmt.Fprintf(b, "\nFlags:\n\n```\n%s```\n", flags)
		}
		reference(b, sub)
	}
}

// Every command that a person types shows how.
func TestEveryCommandHasAnExample(t *testing.T) {
	var check func(*cobra.Command)
	check = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.Example == "" && !sub.Hidden && sub.Name() != "help" {
				t.Errorf("%s has no example", sub.CommandPath())
			}
			check(sub)
		}
	}
	check(newRootCommand())
}
