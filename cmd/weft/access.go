package main

import (
	"github.com/spf13/cobra"

	"weft/model"
)

func newAccessCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "access",
		Short: "Make tokens with which people and programs use the API",
		Example: `  weft access create alice --role admin > alice.token
  weft access list`,
		Args: exactly(0, "create, list or delete"),
		RunE: func(cmd *cobra.Command, _ []string) error { return usage(cmd.Help()) },
	}
	c.AddCommand(newAccessCreateCommand(o), listOf(o, model.KindAccessToken, "weft access list"), deleteOf(o, model.KindAccessToken, "weft access delete alice"))
	return c
}

func newAccessCreateCommand(o *options) *cobra.Command {
	var role, ttl string
	c := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make an access token and print it, this once",
		Long:  "Make an access token and print it on standard output, and nothing else there. Its name stands in the audit log for who used it.",
		Example: `  weft access create alice --role admin > alice.token
  weft access create dashboard --role viewer --ttl 720h`,
		Args: between(0, 1, "at most a NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t := model.MustKind(model.KindAccessToken).New().(*model.AccessToken)
			t.Spec = model.AccessTokenSpec{Role: model.AccessRole(role), TTL: ttl}
			t.Metadata.Name = nameOr(args, role)
			return createToken(cmd, o, t)
		},
	}
	c.Flags().StringVar(&role, "role", string(model.AccessViewer), "what it allows: admin or viewer")
	c.Flags().StringVar(&ttl, "ttl", "", "how long it lives, as 24h (default until it is deleted)")
	c.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"admin", "viewer"}, cobra.ShellCompDirectiveNoFileComp)) //nolint:errcheck // the flag exists
	return c
}
