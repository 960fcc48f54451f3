package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/controller/api/client"
	"weft/model"
)

type getFlags struct {
	selector string
	output   string
	watch    bool
	members  bool
	counters bool
}

var outputs = []string{"table", "wide", "json", "yaml", "name"}

func newGetCommand(o *options) *cobra.Command {
	var f getFlags
	c := &cobra.Command{
		Use:   "get KIND [NAME...]",
		Short: "List resources",
		Long: `List resources of one kind, all or by name.

-o json prints a list of resources with metadata, spec and status, also where
there is one or none; -o yaml prints documents that "weft apply" reads back.
With -w, changes of resources and of their status follow as they happen.`,
		Example: `  weft get hosts
  weft get workloads -l app=web -o wide
  weft get tap web-to-ids -o yaml
  weft get taps -o wide -w
  weft get alerts -l alert.severity=Critical
  weft get group web --members
  weft get policy orders-db --counters -w`,
		Args: atLeast(1, "KIND [NAME...]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			info, names, err := kindAndNames(args)
			if err != nil {
				return err
			}
			if err := f.check(info, names); err != nil {
				return usage(err)
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			p := newPrinter(cmd, info, f.output)
			if f.counters {
				p.count(cmd)
			}
			if f.watch {
				return watch(cmd, cl, info, names, f, p)
			}
			if f.members {
				p = newPrinter(cmd, model.MustKind(model.KindWorkload), f.output)
			}
			list, err := fetch(cmd.Context(), cl, info, names, f)
			if err != nil {
				return err
			}
			if len(list) == 0 && (f.output == "table" || f.output == "wide") {
				fmt.Fprintf(cmd.ErrOrStderr(), "no %s%s\n", p.info.Plural, matching(f.selector))
				return nil
			}
			return p.all(list)
		},
		ValidArgsFunction: completeKindAndNames(o),
	}
	c.Flags().StringVarP(&f.selector, "selector", "l", "", `label selector, e.g. "app=web,env in (prod,stage),!legacy"`)
	c.Flags().StringVarP(&f.output, "output", "o", "table", strings.Join(outputs, "|"))
	c.Flags().BoolVarP(&f.watch, "watch", "w", false, "go on with changes as they happen")
	c.Flags().BoolVar(&f.members, "members", false, "of a group, the workloads in it")
	c.Flags().BoolVar(&f.counters, "counters", false, "of a policy, what each rule has decided")
	c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp)) //nolint:errcheck // the flag exists
	return c
}

func matching(selector string) string {
	if selector == "" {
		return ""
	}
	return fmt.Sprintf(" match %q", selector)
}

func (f getFlags) check(info model.KindInfo, names []string) error {
	if !slices.Contains(outputs, f.output) {
		return fmt.Errorf("-o %s is none of %s", f.output, strings.Join(outputs, ", "))
	}
	if f.selector != "" {
		if len(names) > 0 {
			return errors.New("give names or -l, not both")
		}
		if _, err := model.ParseSelector(f.selector); err != nil {
			return err
		}
	}
	if f.counters && (info.Kind != model.KindPolicy || len(names) != 1 || f.output != "table") {
		return errors.New("--counters is for one policy by name, as a table: weft get policy NAME --counters")
	}
	if f.members && (info.Kind != model.KindGroup || len(names) != 1 || f.watch) {
		return errors.New("--members is for one group by name: weft get group NAME --members")
	}
	return nil
}

func fetch(ctx context.Context, cl *client.Client, info model.KindInfo, names []string, f getFlags) ([]model.Resource, error) {
	if f.members {
		return cl.Members(ctx, names[0])
	}
	if len(names) == 0 {
		return cl.List(ctx, info, f.selector)
	}
	var list []model.Resource
	for _, name := range names {
		r, err := cl.Get(ctx, info, name)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// printer prints resources in one of the outputs.
type printer struct {
	w      io.Writer
	info   model.KindInfo
	output string
	table  *show.Table
	// counted is set for the counters of one policy: what was last printed, by id.
	counted map[string]model.PolicyRuleStatus
}

func newPrinter(cmd *cobra.Command, info model.KindInfo, output string) *printer {
	p := &printer{w: cmd.OutOrStdout(), info: info, output: output}
	wide := output == "wide"
	p.table = &show.Table{Columns: show.Columns(info.Kind, wide)}
	width, color := screen(cmd)
	if p.table.Color = color; !wide {
		p.table.Width = width
	}
	return p
}

func (p *printer) all(list []model.Resource) error {
	switch p.output {
	case "json":
		if list == nil {
			list = []model.Resource{}
		}
		return show.JSON(p.w, list)
	case "yaml", "name":
		for i, r := range list {
			if err := p.one(r, i > 0); err != nil {
				return err
			}
		}
		return nil
	}
	for _, r := range list {
		p.rows(r)
	}
	return p.table.Flush(p.w)
}

// count prints the counters of policies in place of the policies.
func (p *printer) count(cmd *cobra.Command) {
	p.counted = map[string]model.PolicyRuleStatus{}
	p.table = &show.Table{Columns: show.CounterColumns()}
	p.table.Width, p.table.Color = screen(cmd)
}

// rows adds those of a resource to the table; of counters, those that changed.
func (p *printer) rows(r model.Resource) {
	policy, ok := r.(*model.Policy)
	if p.counted == nil || !ok {
		p.table.Row(show.Cells(r, p.output == "wide", time.Now())...)
		return
	}
	for _, rule := range policy.Status.Rules {
		if last, known := p.counted[rule.ID]; !known || last != rule {
			p.counted[rule.ID] = rule
			p.table.Row(show.CounterCells(rule)...)
		}
	}
}

func (p *printer) one(r model.Resource, separate bool) error {
	if p.output == "name" {
		_, err := fmt.Fprintln(p.w, model.Ref(r))
		return err
	}
	text, err := show.YAML(r)
	if err != nil {
		return err
	}
	if separate {
		text = append([]byte("---\n"), text...)
	}
	_, err = p.w.Write(text)
	return err
}

// event prints one change of a watch.
func (p *printer) event(e client.Event) error {
	switch p.output {
	case "json":
		data, err := json.Marshal(map[string]any{"type": e.Type, "object": e.Resource})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.w, "%s\n", data)
		return err
	case "yaml":
		return p.one(e.Resource, true)
	case "name":
		_, err := fmt.Fprintf(p.w, "%s %s\n", model.Ref(e.Resource), strings.ToLower(e.Type))
		return err
	}
	if e.Type == "DELETED" {
		if err := p.table.Flush(p.w); err != nil {
			return err
		}
		_, err := fmt.Fprintf(p.w, "%s deleted\n", e.Resource.Meta().Name)
		return err
	}
	p.rows(e.Resource)
	return nil
}

// watch prints what is and then every change, until it is interrupted. A
// controller that goes away is waited for; what has not changed meanwhile is
// not printed again.
func watch(cmd *cobra.Command, cl *client.Client, info model.KindInfo, names []string, f getFlags, p *printer) error {
	ctx := cmd.Context()
	last := map[string]string{}
	for connected := false; ; {
		synced := false
		present := map[string]bool{}
		err := cl.Watch(ctx, info, f.selector, func(e client.Event) error {
			connected = true
			if e.Resource == nil { // SYNCED
				synced = true
				for name := range last {
					if !present[name] {
						delete(last, name)
						fmt.Fprintf(p.w, "%s deleted\n", name)
					}
				}
				return p.flush()
			}
			name := e.Resource.Meta().Name
			if len(names) > 0 && !slices.Contains(names, name) {
				return nil
			}
			present[name] = true
			text, err := json.Marshal(e.Resource)
			if err != nil {
				return err
			}
			if e.Type != "DELETED" && last[name] == string(text) {
				return nil
			}
			if last[name] = string(text); e.Type == "DELETED" {
				delete(last, name)
			}
			if err := p.event(e); err != nil || !synced {
				return err
			}
			return p.flush()
		})
		switch {
		case ctx.Err() != nil:
			return nil // interrupted, as watches end
		case !connected || client.Status(err) != 0:
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%v; trying again\n", err)
		for retry := true; retry; {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Second):
			}
			_, err := cl.Version(ctx)
			retry = err != nil && client.Status(err) == 0
		}
	}
}

func (p *printer) flush() error {
	if p.output != "table" && p.output != "wide" {
		return nil
	}
	return p.table.Flush(p.w)
}
