package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/model"
	"weft/policy/importing"
)

func newPolicyImportCommand() *cobra.Command {
	var from, output, subject string
	var acceptOpen bool
	c := &cobra.Command{
		Use:   "import --from FORMAT FILE|-...",
		Short: "Make policies of the rules of another system",
		Long: `Make policies of the rules of another system. They go to standard output, and
what a policy cannot say goes to standard error as a table: each finding says
where it is, what is meant there and what weft does instead.

FORMAT is kubernetes or clusternetworkpolicy (NetworkPolicy, ClusterNetworkPolicy
and the older AdminNetworkPolicy are read by both, with Namespaces and Pods if the
files hold them), calico, iptables (what iptables-save writes), aws (aws ec2
describe-security-groups) or openstack (openstack security group rule list --long
-f json, or the API's JSON).

What cannot be said closes: less is allowed than was. Where something would open,
nothing is written unless --accept-open is given. The policies are Staged:
nothing enforces them until their stage is Active.`,
		Example: `  kubectl get networkpolicies,namespaces,pods -A -o yaml | weft policy import --from kubernetes - > policies.yaml
  weft policy import --from iptables --subject host.name=web-1 rules.v4 rules.v6
  weft policy import --from aws groups.json -o json`,
		Args: atLeast(1, "FILE or -"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "yaml" && output != "json" {
				return usage(fmt.Errorf("-o %q is none of yaml, json", output))
			}
			if from == "" {
				return usage(fmt.Errorf("give --from: %s", importing.FormatNames()))
			}
			var o importing.Options
			if subject != "" {
				s, err := model.ParseSelector(subject)
				if err != nil {
					return usage(fmt.Errorf("--subject: %w", err))
				}
				o.Subject = &s
			}
			files, err := readImports(args, cmd.InOrStdin())
			if err != nil {
				return err
			}
			result, err := importing.Import(importing.Format(from), files, o)
			var faults importing.Faults
			if errors.As(err, &faults) {
				fmt.Fprintln(cmd.ErrOrStderr(), faults)
				return &exitError{code: 1}
			}
			if err != nil {
				return err
			}
			return writeImport(cmd, result, output, acceptOpen)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	c.Flags().StringVar(&from, "from", "", "format of the files: "+importing.FormatNames())
	c.Flags().StringVarP(&output, "output", "o", "yaml", "yaml, or json with the report in it")
	c.Flags().StringVar(&subject, "subject", "", "selector that narrows the subject of every policy; iptables needs it")
	c.Flags().BoolVar(&acceptOpen, "accept-open", false, "write the policies although some would let pass what was stopped")
	c.RegisterFlagCompletionFunc("from", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) { //nolint:errcheck // the flag exists
		var names []string
		for _, f := range importing.Formats {
			names = append(names, string(f))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	return c
}

func writeImport(cmd *cobra.Command, result *importing.Result, output string, acceptOpen bool) error {
	fmt.Fprint(cmd.ErrOrStderr(), result.Report)
	count := map[importing.Effect]int{}
	for _, f := range result.Report {
		count[f.Effect]++
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "policies: %d; findings: %d close, %d open, %d change nothing\n",
		len(result.Policies), count[importing.Closes], count[importing.Opens], count[importing.Same])
	if count[importing.Opens] > 0 && !acceptOpen {
		return errors.New("some rules would let pass what was stopped; nothing is written. Change what is marked \"opens\", or give --accept-open")
	}
	if output == "json" {
		return show.JSON(cmd.OutOrStdout(), result)
	}
	for i, p := range result.Policies {
		text, err := show.YAML(p)
		if err != nil {
			return fmt.Errorf("write policy %s: %w", p.Metadata.Name, err)
		}
		if i > 0 {
			text = append([]byte("---\n"), text...)
		}
		if _, err := cmd.OutOrStdout().Write(text); err != nil {
			return fmt.Errorf("write policies: %w", err)
		}
	}
	return nil
}

func readImports(paths []string, stdin io.Reader) ([]importing.File, error) {
	var files []importing.File
	for _, path := range paths {
		in, name := stdin, "stdin"
		if path != "-" {
			f, err := os.Open(path)
			if err != nil {
				return nil, fmt.Errorf("read rules: %w", err)
			}
			defer f.Close()
			in, name = f, path
		}
		data, err := io.ReadAll(io.LimitReader(in, importing.MaxFile+1))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		files = append(files, importing.File{Name: name, Data: data})
	}
	return files, nil
}
