package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/controller/store"
)

func newAuditCommand(o *options) *cobra.Command {
	var limit int
	var output, object string
	c := &cobra.Command{
		Use:   "audit",
		Short: "Show who changed what, the newest first",
		Example: `  weft audit --limit 20
  weft audit --object tap/web-to-ids -o json`,
		Args: exactly(0, "no arguments but flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > 10_000 {
				return usage(fmt.Errorf("--limit %d is outside 1 to 10000", limit))
			}
			if output != "table" && output != "json" {
				return usage(fmt.Errorf("-o %s is none of table, json", output))
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			entries, err := cl.Audit(cmd.Context(), limit)
			if err != nil {
				return err
			}
			if object != "" {
				entries = slices.DeleteFunc(entries, func(e store.AuditEntry) bool { return e.Object != object })
			}
			if output == "json" {
				return show.JSON(cmd.OutOrStdout(), entries)
			}
			t := show.Table{Columns: []show.Column{{Title: "TIME"}, {Title: "ACTOR"}, {Title: "VERB"}, {Title: "OBJECT"}, {Title: "CHANGED", Flexible: true}}}
			t.Width, _ = screen(cmd)
			for _, e := range entries {
				t.Row(e.Time.Local().Format(time.DateTime), e.Actor, e.Verb, e.Object, changedFields(e))
			}
			return t.Flush(cmd.OutOrStdout())
		},
	}
	c.Flags().IntVar(&limit, "limit", 50, "the newest so many")
	c.Flags().StringVar(&object, "object", "", "among those, only of one resource, as tap/web-to-ids")
	c.Flags().StringVarP(&output, "output", "o", "table", "table|json; json has the resource before and after")
	return c
}

// changedFields names the fields that an update changed.
func changedFields(e store.AuditEntry) string {
	if e.Message != "" {
		return e.Message
	}
	var before, after map[string]any
	if json.Unmarshal(e.Before, &before) != nil || json.Unmarshal(e.After, &after) != nil {
		return "" // created or deleted
	}
	var out []string
	compare("", before, after, &out)
	return strings.Join(slices.DeleteFunc(out, func(f string) bool { return f == "metadata.generation" }), ",")
}

func compare(path string, a, b map[string]any, out *[]string) {
	keys := maps.Clone(a)
	if keys == nil {
		keys = map[string]any{}
	}
	maps.Copy(keys, b)
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		x, xIsMap := a[k].(map[string]any)
		y, yIsMap := b[k].(map[string]any)
		switch {
		case xIsMap && yIsMap:
			compare(path+k+".", x, y, out)
		case !reflect.DeepEqual(a[k], b[k]):
			*out = append(*out, path+k)
		}
	}
}
