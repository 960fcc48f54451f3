package main

import (
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"weft/model"
)

func newTokenCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Make tokens with which machines join",
		Example: `  weft token create --uses 10 --ttl 24h --labels site=dc1 > join.token
  weft token list`,
		Args: exactly(0, "create, list or delete"),
		RunE: func(cmd *cobra.Command, _ []string) error { return usage(cmd.Help()) },
	}
	c.AddCommand(newTokenCreateCommand(o), listOf(o, model.KindJoinToken, "weft token list"), deleteOf(o, model.KindJoinToken, "weft token delete edge"))
	return c
}

func newTokenCreateCommand(o *options) *cobra.Command {
	var spec model.JoinTokenSpec
	var role, claims string
	c := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make a join token and print it, this once",
		Long:  "Make a join token and print it on standard output, and nothing else there. The controller keeps only its hash, so it cannot be shown again.",
		Example: `  weft token create > join.token
  weft token create edge --uses 20 --ttl 2h --labels site=edge,env=prod
  weft token create db --labels app=orders,role=db --claims 'os.*,cloud.*' > db.token
  weft token create --role relay > relay.token`,
		Args: between(0, 1, "at most a NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t := model.MustKind(model.KindJoinToken).New().(*model.JoinToken)
			var err error
			if spec.Claims, err = model.ParseClaims(claims); err != nil {
				return usage(fmt.Errorf("--claims: %w", err))
			}
			spec.Role = model.Role(role)
			t.Spec, t.Metadata.Name = spec, nameOr(args, role)
			return createToken(cmd, o, t)
		},
	}
	c.Flags().StringVar(&role, "role", string(model.RoleHost), "what it admits: host or relay")
	c.Flags().IntVar(&spec.Uses, "uses", 1, "how many times it may be used")
	c.Flags().StringVar(&spec.TTL, "ttl", "1h", "how long it lives, as 30m or 24h")
	c.Flags().StringToStringVar(&spec.Labels, "labels", nil, "labels for every host that joins with it: k=v,k=v")
	c.Flags().StringVar(&claims, "claims", "", "keys of the labels that agents which join with it may claim: any, none, or KEY,…; a * at a key's end takes what begins so (default: the controller's --claims)")
	c.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"host", "relay"}, cobra.ShellCompDirectiveNoFileComp)) //nolint:errcheck // the flag exists
	return c
}

func nameOr(args []string, prefix string) string {
	if len(args) == 1 {
		return args[0]
	}
	return prefix + "-" + strings.ToLower(rand.Text()[:8])
}

// createToken prints only the token on standard output, so that it can be sent
// to a file.
func createToken(cmd *cobra.Command, o *options, r model.Resource) error {
	if err := r.Validate(); err != nil {
		return usage(err)
	}
	cl, err := o.connect()
	if err != nil {
		return err
	}
	stored, warnings, err := cl.Create(cmd.Context(), r, false)
	if err != nil {
		return explainProblem(err)
	}
	warn(cmd, model.Ref(r), warnings)
	fmt.Fprintln(cmd.OutOrStdout(), tokenOf(stored))
	return nil
}

// listOf and deleteOf are "get" and "delete" for one kind.
func listOf(o *options, kind model.Kind, example string) *cobra.Command {
	var output string
	info := model.MustKind(kind)
	c := &cobra.Command{
		Use: "list", Short: "List " + info.Plural, Example: "  " + example, Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := (getFlags{output: output}).check(info, nil); err != nil {
				return usage(err)
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			list, err := cl.List(cmd.Context(), info, "")
			if err != nil {
				return err
			}
			return newPrinter(cmd, info, output).all(list)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "table", strings.Join(outputs, "|"))
	return c
}

func deleteOf(o *options, kind model.Kind, example string) *cobra.Command {
	info := model.MustKind(kind)
	return &cobra.Command{
		Use: "delete NAME...", Short: "Delete " + info.Plural, Example: "  " + example, Args: atLeast(1, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := o.connect()
			if err != nil {
				return err
			}
			for _, name := range args {
				r, err := cl.Delete(cmd.Context(), info, name, false)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s deleted\n", model.Ref(r))
			}
			return nil
		},
		ValidArgsFunction: completeNames(o, info),
	}
}
