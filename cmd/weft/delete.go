package main

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/spf13/cobra"

	"weft/cmd/weft/manifest"
	"weft/controller/api/client"
	"weft/model"
)

func newDeleteCommand(o *options) *cobra.Command {
	var files []string
	var dryRun, ignore, force bool
	c := &cobra.Command{
		Use:   "delete KIND NAME... | -f FILE",
		Short: "Delete resources",
		Long: `Delete resources by name, or those that files name, in the reverse of the order
in which they are applied. A group that a tap or another group uses is refused.`,
		Example: `  weft delete tap web-to-ids
  weft delete -f taps/
  weft delete host web-1        # the machine must join again`,
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := deleteTargets(cmd, args, files)
			if err != nil {
				return err
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			if force {
				cl = cl.Forcing()
			}
			var failed error
			for _, t := range targets {
				r, err := cl.Delete(cmd.Context(), t.info, t.name, dryRun)
				if ignore && client.Status(err) == http.StatusNotFound {
					continue
				}
				if err != nil {
					failed = errors.Join(failed, err)
					continue
				}
				suffix := ""
				if dryRun {
					suffix = " (dry run)"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s deleted%s\n", model.Ref(r), suffix)
			}
			return failed
		},
		ValidArgsFunction: completeKindAndNames(o),
	}
	c.Flags().StringArrayVarP(&files, "filename", "f", nil, "file, directory, or - for standard input; may be repeated")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "check, and delete nothing")
	c.Flags().BoolVar(&force, "force", false, "delete although it would cut agents off from the controller")
	c.Flags().BoolVar(&ignore, "ignore-not-found", false, "what is not there is no error")
	c.MarkFlagFilename("filename", "yaml", "yml", "json") //nolint:errcheck // the flag exists
	return c
}

type target struct {
	info model.KindInfo
	name string
}

func deleteTargets(cmd *cobra.Command, args, files []string) ([]target, error) {
	var out []target
	if (len(files) == 0) == (len(args) == 0) {
		return nil, usage(errors.New("give KIND NAME, or -f FILE"))
	}
	if len(files) > 0 {
		items, err := manifest.Load(files, cmd.InOrStdin())
		if err != nil {
			return nil, faulty(cmd, err)
		}
		manifest.Sort(items)
		slices.Reverse(items)
		for _, i := range items {
			out = append(out, target{model.MustKind(i.Resource.GetKind()), i.Resource.Meta().Name})
		}
		return out, nil
	}
	info, names, err := kindAndNames(args)
	if err == nil && len(names) == 0 {
		err = usage(fmt.Errorf("which of the %s? give a name", info.Plural))
	}
	for _, n := range names {
		out = append(out, target{info, n})
	}
	return out, err
}
