package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"weft/cmd/weft/contexts"
	"weft/cmd/weft/show"
)

func newContextCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "context",
		Short: "Choose among the controllers logged in to",
		Example: `  weft context list
  weft context use prod`,
		Args: exactly(0, "list, use or delete"),
		RunE: func(cmd *cobra.Command, _ []string) error { return usage(cmd.Help()) },
	}
	c.AddCommand(&cobra.Command{
		Use: "list", Short: "List the contexts", Example: "  weft context list", Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := contexts.Load()
			if err != nil {
				return err
			}
			t := show.Table{Columns: []show.Column{{Title: "CURRENT"}, {Title: "NAME"}, {Title: "SERVER"}}}
			for _, x := range all.Contexts {
				mark := " "
				if x.Name == all.Current {
					mark = "*"
				}
				t.Row(mark, x.Name, x.Server)
			}
			return t.Flush(cmd.OutOrStdout())
		},
	}, contextChange("use", "Use a context from now on", "using", func(all *contexts.Contexts, name string) error {
		_, err := all.Find(name)
		all.Current = name
		return err
	}), contextChange("delete", "Forget a context and its token", "deleted", (*contexts.Contexts).Delete))
	return c
}

func contextChange(verb, short, done string, change func(*contexts.Contexts, string) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Example: "  weft context " + verb + " prod", Args: exactly(1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := contexts.Load()
			if err != nil {
				return err
			}
			if err := change(all, args[0]); err != nil {
				return err
			}
			if err := all.Save(); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s context %q\n", done, args[0])
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			all, err := contexts.Load()
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			var names []string
			for _, x := range all.Contexts {
				names = append(names, x.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}
