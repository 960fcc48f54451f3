package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/model"
)

func newGroupCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:     "group",
		Short:   "Try groups before they are saved",
		Example: `  weft group preview -l "app=web,env!=test"`,
		Args:    exactly(0, "preview"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return usage(cmd.Help()) },
	}
	c.AddCommand(newGroupPreviewCommand(o))
	return c
}

func newGroupPreviewCommand(o *options) *cobra.Command {
	var selector, output string
	var groups []string
	c := &cobra.Command{
		Use:   "preview [-l SELECTOR] [--groups NAME,...]",
		Short: "Show who would belong to a group; nothing is stored",
		Example: `  weft group preview -l app=web
  weft group preview -l "role=db" --groups web -o wide`,
		Args: exactly(0, "no arguments but flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if selector == "" && len(groups) == 0 {
				return usage(errors.New("give -l SELECTOR or --groups"))
			}
			if err := (getFlags{output: output}).check(model.MustKind(model.KindGroup), nil); err != nil {
				return usage(err)
			}
			g := model.MustKind(model.KindGroup).New().(*model.Group)
			g.Metadata.Name, g.Spec.Groups = "preview", groups
			if selector != "" {
				s, err := model.ParseSelector(selector)
				if err != nil {
					return usage(err)
				}
				g.Spec.Selector = &s
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			p, err := cl.PreviewGroup(cmd.Context(), g)
			if err != nil {
				return explainProblem(err)
			}
			list := make([]model.Resource, len(p.Members))
			for i := range p.Members {
				list[i] = &p.Members[i]
			}
			if err := newPrinter(cmd, model.MustKind(model.KindWorkload), output).all(list); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s on %s\n", show.Plural(len(list), "workload"), show.Plural(p.Hosts, "host"))
			warn(cmd, "preview", p.Warnings)
			return nil
		},
	}
	c.Flags().StringVarP(&selector, "selector", "l", "", "label selector")
	c.Flags().StringSliceVar(&groups, "groups", nil, "groups whose members belong too")
	c.Flags().StringVarP(&output, "output", "o", "table", "table|wide|json|yaml|name")
	return c
}
