package main

import (
	"fmt"
	"maps"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"weft/controller/api/client"
	"weft/model"
)

// labelTries bounds how often a label is set anew on what somebody else changed.
const labelTries = 10

func newLabelCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "label KIND NAME KEY=VALUE... KEY-...",
		Short: "Set and remove labels",
		Long: `Set labels with KEY=VALUE and remove them with KEY-.

Those of a host are added to its host workload, over what its agent reports, so
that selectors of groups and taps find it; those of other kinds are their own.`,
		Example: `  weft label host web-1 app=web tier=front
  weft label host web-1 tier-
  weft label tap web-to-ids owner=netops`,
		Args: atLeast(2, "KIND NAME KEY=VALUE..."),
		RunE: func(cmd *cobra.Command, args []string) error {
			var name string
			info, rest, err := kindAndNames(args[:1])
			if err != nil {
				return err
			}
			if changes := args[1:]; len(rest) == 1 {
				name, rest = rest[0], changes
			} else {
				name, rest = changes[0], changes[1:]
			}
			if len(rest) == 0 {
				return usage(fmt.Errorf("give labels: KEY=VALUE to set, KEY- to remove"))
			}
			if info.Observed {
				return usage(fmt.Errorf("%s are reported by agents; label the host, the container or the unit", info.Plural))
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			for try := 1; ; try++ {
				r, err := cl.Get(cmd.Context(), info, name)
				if err != nil {
					return err
				}
				if err := setLabels(r, rest); err != nil {
					return usage(err)
				}
				_, warnings, err := cl.Replace(cmd.Context(), r, false)
				if client.Status(err) == http.StatusConflict && try < labelTries {
					continue // somebody was faster: once more on what there is now
				}
				if err != nil {
					return explainProblem(err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s labelled\n", model.Ref(r))
				warn(cmd, model.Ref(r), warnings)
				return nil
			}
		},
		ValidArgsFunction: completeKindAndNames(o),
	}
}

func setLabels(r model.Resource, changes []string) error {
	labels := &r.Meta().Labels
	if h, ok := r.(*model.Host); ok {
		labels = &h.Spec.Labels
	}
	out := maps.Clone(*labels)
	if out == nil {
		out = map[string]string{}
	}
	for _, c := range changes {
		k, v, set := strings.Cut(c, "=")
		switch removed, remove := strings.CutSuffix(c, "-"); {
		case set:
			out[k] = v
		case remove:
			delete(out, removed)
		default:
			return fmt.Errorf("%q is neither KEY=VALUE nor KEY-", c)
		}
	}
	*labels = out
	return nil
}
