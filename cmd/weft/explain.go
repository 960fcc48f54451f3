package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"weft/model"
)

func newExplainCommand(o *options) *cobra.Command {
	var packet packetFlags
	c := &cobra.Command{
		Use:   "explain KIND[.FIELD] | A B SERVICE",
		Short: "Explain a kind or a field, or what becomes of a packet and why",
		Long: `With one argument, explain a kind of resource or one of its fields.

With three, say what the policies make of a packet from A to B, at both ends, and
why: which rule decides in which tier, and where nothing allows it, which rules
nearly did. A and B are names of workloads, addresses, domain names, or world,
dns, control-plane, relay, metadata. SERVICE is tcp/5432, udp/53, sctp/3868,
icmp/8 (a type), gre or the number of a protocol.`,
		Example: `  weft explain tap.spec.filter
  weft explain web-1:front db-1 tcp/5432
  weft explain web-1 example.org tcp/443 --process /usr/bin/curl --stage Staged
  weft explain --flow 6b22d7cbd9d2a6a7`,
		Args: func(cmd *cobra.Command, args []string) error {
			if packet.flow != "" {
				return exactly(0, "no arguments with --flow")(cmd, args)
			}
			if len(args) == 3 {
				return nil
			}
			return exactly(1, "KIND[.FIELD], or A B SERVICE")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return explainPacket(cmd, o, args, packet)
			}
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
	packet.add(c)
	return c
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
