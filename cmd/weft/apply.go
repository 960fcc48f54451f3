package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/manifest"
	"weft/cmd/weft/show"
	"weft/controller/api"
	"weft/controller/api/client"
	"weft/model"
)

func newApplyCommand(o *options) *cobra.Command {
	var files []string
	var dryRun, force bool
	var within string
	c := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Create or change resources as files say",
		Long: `Create or change resources as files say.

Every document is checked first, by this program and by the controller; where
anything is wrong, all of it is printed and nothing is applied. A resource that
is as its file says is left alone. A file that carries metadata.resourceVersion
is refused where the resource has changed since.

With --confirm, everything is rolled back by the controller itself unless
"weft confirm" comes in time: for a change that might lock you out.`,
		Example: `  weft apply -f tap.yaml
  weft apply -f taps/ -f groups.yaml
  weft apply --confirm 5m -f policies/
  weft get taps -o yaml | weft apply --dry-run -f -`,
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
			if force {
				cl = cl.Forcing()
			}
			if within == "" || dryRun {
				return applyAll(cmd, cl, items, dryRun)
			}
			return applyUnconfirmed(cmd, cl, items, within)
		},
	}
	c.Flags().StringArrayVarP(&files, "filename", "f", nil, "file, directory, or - for standard input; may be repeated")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "let the controller check everything, and write nothing")
	c.Flags().BoolVar(&force, "force", false, "write although it would cut agents off from the controller")
	c.Flags().StringVar(&within, "confirm", "", "roll everything back unless it is confirmed within this time, as 5m")
	c.MarkFlagFilename("filename", "yaml", "yml", "json") //nolint:errcheck // the flag exists
	return c
}

// applyUnconfirmed applies what the controller takes back unless it is confirmed.
func applyUnconfirmed(cmd *cobra.Command, cl *client.Client, items []manifest.Item, within string) error {
	// What cannot be applied shall not leave a set without writes behind.
	checked, err := checkAll(cmd, cl, items)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(checked, func(a applied) bool { return a.verb != "unchanged" }) {
		return applyAll(cmd, cl, items, false)
	}
	set, err := cl.BeginConfirmation(cmd.Context(), within)
	if err != nil {
		return explainProblem(err)
	}
	err = applyAll(cmd, cl.Confirming(set.ID), items, false)
	fmt.Fprintf(cmd.OutOrStdout(), "rolled back at %s unless confirmed: weft confirm %s\n", set.Deadline.Local().Format(time.DateTime), set.ID)
	return err
}

// faulty prints every fault on a line of its own.
func faulty(cmd *cobra.Command, err error) error {
	var faults manifest.Faults
	if !errors.As(err, &faults) {
		return err
	}
	for _, f := range faults {
		fmt.Fprintln(cmd.ErrOrStderr(), f)
	}
	return fmt.Errorf("%s; nothing was written", show.Plural(len(faults), "fault"))
}

// checkAll finds what only the controller can know is wrong.
func checkAll(cmd *cobra.Command, cl *client.Client, items []manifest.Item) ([]applied, error) {
	checked := make([]applied, len(items))
	var faults manifest.Faults
	for i, item := range items {
		var err error
		if checked[i], err = applyOne(cmd.Context(), cl, item.Resource, true); err != nil {
			more, fatal := explainItem(item, err)
			if fatal != nil {
				return nil, fatal
			}
			faults = append(faults, more...)
		}
	}
	if len(faults) > 0 {
		return nil, faulty(cmd, faults)
	}
	return checked, nil
}

func applyAll(cmd *cobra.Command, cl *client.Client, items []manifest.Item, dryRun bool) error {
	ctx := cmd.Context()
	checked, err := checkAll(cmd, cl, items)
	if err != nil {
		return err
	}
	for i, item := range items {
		done := checked[i]
		if !dryRun {
			var err error
			if done, err = applyOne(ctx, cl, item.Resource, false); err != nil {
				return fmt.Errorf("%s:%d: %s: %w", item.File, item.Line, model.Ref(item.Resource), explainProblem(err))
			}
		}
		line := model.Ref(item.Resource) + " " + done.verb
		if done.verb != "unchanged" {
			if sum := summary(ctx, cl, done.stored); sum != "" {
				line += ": " + sum
			}
		}
		if dryRun {
			line += " (dry run)"
		}
		fmt.Fprintln(cmd.OutOrStdout(), line)
		if token := tokenOf(done.stored); token != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "  its token, shown this once: %s\n", token)
		}
		if !dryRun || len(items) == 1 { // in a dry run of several, one may need another that is not there yet
			warn(cmd, model.Ref(item.Resource), done.warnings)
		}
	}
	return nil
}

// explainItem places what the controller refused in the file; errors of any
// other sort end the command.
func explainItem(item manifest.Item, err error) (manifest.Faults, error) {
	var p *api.Problem
	if !errors.As(err, &p) || p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden || p.Status >= 500 {
		return nil, err
	}
	if len(p.Errors) == 0 {
		return item.Explain([]model.FieldError{{Message: p.Detail}}), nil
	}
	return item.Explain(p.Errors), nil
}

type applied struct {
	stored   model.Resource
	verb     string // created, configured, unchanged
	warnings []string
}

func applyOne(ctx context.Context, cl *client.Client, r model.Resource, dryRun bool) (applied, error) {
	info := model.MustKind(r.GetKind())
	live, err := cl.Get(ctx, info, r.Meta().Name)
	if client.Status(err) == http.StatusNotFound && !info.Joined {
		stored, warnings, err := cl.Create(ctx, r, dryRun)
		return applied{stored, "created", warnings}, err
	}
	if err != nil && client.Status(err) != http.StatusNotFound {
		return applied{}, err
	}
	stored, warnings, err := cl.Replace(ctx, r, dryRun)
	if err != nil {
		return applied{}, err
	}
	same, err := sameIntent(live, stored)
	if err != nil {
		return applied{}, err
	}
	if same {
		return applied{stored, "unchanged", nil}, nil
	}
	return applied{stored, "configured", warnings}, nil
}

func sameIntent(a, b model.Resource) (bool, error) {
	x, err := intentText(a)
	if err != nil {
		return false, err
	}
	y, err := intentText(b)
	return x == y, err
}

func intentText(r model.Resource) (string, error) {
	m, err := show.Intent(r, false)
	if err != nil {
		return "", err
	}
	text, err := show.YAML(m)
	return string(text), err
}

// summary says what a resource comes to; nothing where that cannot be asked.
func summary(ctx context.Context, cl *client.Client, r model.Resource) string {
	switch r := r.(type) {
	case *model.Tap:
		p, err := cl.PreviewTap(ctx, r)
		if err != nil {
			return ""
		}
		text := fmt.Sprintf("%s on %s -> %s", show.Plural(len(p.Sources), "workload"), show.Plural(p.Hosts, "host"), show.Plural(len(p.Tools), "tool"))
		if r.Spec.Ring != nil {
			text = fmt.Sprintf("%s on %s -> a ring on each", show.Plural(len(p.Sources), "workload"), show.Plural(p.Hosts, "host"))
		}
		if r.Spec.Paused {
			text += ", paused"
		}
		return text
	case *model.Group:
		p, err := cl.PreviewGroup(ctx, r)
		if err != nil {
			return ""
		}
		return fmt.Sprintf("%s on %s", show.Plural(len(p.Members), "workload"), show.Plural(p.Hosts, "host"))
	case *model.Policy:
		return fmt.Sprintf("%s, %s on %s", strings.ToLower(string(r.Spec.StageOrDefault())), show.Plural(r.Status.Workloads, "workload"), show.Plural(r.Status.Targeted, "host"))
	case *model.Host:
		if r.Spec.Revoked {
			return "revoked"
		}
		return strings.TrimSpace("labels " + show.Labels(r.Spec.Labels))
	}
	return ""
}

func tokenOf(r model.Resource) string {
	switch r := r.(type) {
	case *model.JoinToken:
		return r.Status.Token
	case *model.AccessToken:
		return r.Status.Token
	}
	return ""
}
