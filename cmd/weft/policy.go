package main

import "github.com/spf13/cobra"

func newPolicyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "policy",
		Short:   "Prepare policies before they are applied",
		Example: `  weft policy import --from kubernetes netpols.yaml > policies.yaml`,
		Args:    exactly(0, "import"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return usage(cmd.Help()) },
		GroupID: "resources",
	}
	c.AddCommand(newPolicyImportCommand())
	return c
}
