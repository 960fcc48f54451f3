package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"weft/cmd/weft/manifest"
	"weft/cmd/weft/show"
	"weft/controller/api"
	"weft/controller/api/client"
	"weft/model"
)

func newApplyCommand(o *options) *cobra.Command {
	var files []string
	var dryRun bool
	c := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Create or change resources as files say",
		Long: `Create or change resources as files say.

Every document is checked first, by this program and by the controller; where
anything is wrong, all of it is printed and nothing is applied. A resource that
is as its file says is left alone. A file that carries metadata.resourceVersion
is refused where the resource has changed since.`,
		Example: `  weft apply -f tap.yaml
  weft apply -f taps/ -f groups.yaml
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
			return applyAll(cmd, cl, items, dryRun)
		},
	}
	c.Flags().StringArrayVarP(&files, "filename", "f", nil, "file, directory, or - for standard input; may be repeated")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "let the controller check everything, and write nothing")
	c.MarkFlagFilename("filename", "yaml", "yml", "json") //nolint:errcheck // the flag exists
	return c
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

func applyAll(cmd *cobra.Command, cl *client.Client, items []manifest.Item, dryRun bool) error {
	ctx := cmd.Context()
	// The first round finds what only the controller can know is wrong.
	checked := make([]applied, len(items))
	var faults manifest.Faults
	for i, item := range items {
		var err error
		if checked[i], err = applyOne(ctx, cl, item.Resource, true); err != nil {
			more, fatal := explainItem(item, err)
			if fatal != nil {
				return fatal
			}
			faults = append(faults, more...)
		}
	}
	if len(faults) > 0 {
		return faulty(cmd, faults)
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
