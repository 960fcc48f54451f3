package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"weft/model"
)

func newExplainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "explain KIND[.FIELD]",
		Short: "Explain a kind, or one of its fields",
		Example: `  weft explain tap
  weft explain tap.spec.filter
  weft explain group.metadata`,
		Args: exactly(1, "KIND[.FIELD]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, field, _ := strings.Cut(args[0], ".")
			info, err := model.FindKind(name)
			if err != nil {
				return usage(err)
			}
			fields := append(model.MetadataFields(), model.Fields(info)...)
			if field == "" {
				fmt.Fprintf(cmd.OutOrStdout(), "%s (%s, %s)\n\n%s\n\n", info.Kind, info.Plural, info.Short, wrap(model.KindDoc(info), "", 78))
				fields = model.Fields(info)
			}
			found := false
			for _, f := range fields {
				path := strings.ReplaceAll(f.Path, "[]", "")
				if field == "" || path == field || strings.HasPrefix(path, field+".") {
					found = true
					fmt.Fprintf(cmd.OutOrStdout(), "%s <%s>\n", f.Path, f.Type)
					if f.Doc != "" {
						fmt.Fprintln(cmd.OutOrStdout(), wrap(f.Doc, "    ", 78))
					}
				}
			}
			if !found {
				return usage(fmt.Errorf("%s has no field %q; weft explain %s lists them", info.Kind, field, name))
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var out []string
			for _, k := range model.Kinds {
				kind := strings.ToLower(string(k.Kind))
				out = append(out, kind)
				for _, f := range model.Fields(k) {
					out = append(out, kind+"."+strings.ReplaceAll(f.Path, "[]", ""))
				}
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// wrap breaks text into lines of at most width bytes, each after indent.
func wrap(text, indent string, width int) string {
	var lines []string
	line := indent
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > width && line != indent {
			lines, line = append(lines, line), indent
		}
		if line != indent {
			line += " "
		}
		line += word
	}
	return strings.Join(append(lines, line), "\n")
}
