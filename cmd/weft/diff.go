package main

import (
	"errors"
	"net/http"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"weft/cmd/weft/manifest"
	"weft/controller/api/client"
	"weft/model"
)

func newDiffCommand(o *options) *cobra.Command {
	var files []string
	c := &cobra.Command{
		Use:   "diff -f FILE|DIR|-",
		Short: "Show what apply would change",
		Long:  "Show what apply would change, as the controller's own dry run sees it. The exit status is 0 where nothing would, 1 where something would or on an error.",
		Example: `  weft diff -f tap.yaml
  weft diff -f taps/ && echo in step`,
		Args: exactly(0, "no arguments but -f"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usage(errors.New("give -f FILE, -f DIRECTORY or -f -"))
			}
			items, err := manifest.Load(files, cmd.InOrStdin())
			if err != nil {
				return faulty(cmd, err)
			}
			manifest.Sort(items)
			cl, err := o.connect()
			if err != nil {
				return err
			}
			differ := false
			for _, item := range items {
				text, err := diffItem(cmd, cl, item)
				if err != nil {
					return faulty(cmd, err)
				}
				if text != "" {
					differ = true
					cmd.OutOrStdout().Write([]byte(text)) //nolint:errcheck // a closed pipe
				}
			}
			if differ {
				return &exitError{code: 1}
			}
			return nil
		},
	}
	c.Flags().StringArrayVarP(&files, "filename", "f", nil, "file, directory, or - for standard input; may be repeated")
	c.MarkFlagFilename("filename", "yaml", "yml", "json") //nolint:errcheck // the flag exists
	return c
}

func diffItem(cmd *cobra.Command, cl *client.Client, item manifest.Item) (string, error) {
	r := item.Resource
	live, err := cl.Get(cmd.Context(), model.MustKind(r.GetKind()), r.Meta().Name)
	old := ""
	if err == nil {
		old, err = intentText(live)
	} else if client.Status(err) == http.StatusNotFound {
		err = nil
	}
	if err != nil {
		return "", err
	}
	would, err := applyOne(cmd.Context(), cl, r, true)
	if err != nil {
		faults, fatal := explainItem(item, err)
		if fatal != nil {
			return "", fatal
		}
		return "", faults
	}
	now, err := intentText(would.stored)
	if err != nil {
		return "", err
	}
	text := string(diff.Diff("live/"+model.Ref(r), []byte(old), "file/"+model.Ref(r), []byte(now)))
	_, text, _ = strings.Cut(text, "\n") // the line "diff A B"
	return text, nil
}
