package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weft/cmd/weft/manifest"
	"weft/controller/api"
	"weft/controller/api/client"
	"weft/model"
)

func newPolicyCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "policy",
		Short: "Import, compare, replay and propose policies, and show what they deny",
		Example: `  weft policy import --from kubernetes netpols.yaml > policies.yaml
  weft policy diff -f orders-db.yaml
  weft policy replay -f policies/ --since 7d
  weft policy propose --group orders > proposed.yaml
  weft policy denies --staged`,
		Args: exactly(0, "import, diff, replay, propose or denies"),
		RunE: func(cmd *cobra.Command, _ []string) error { return usage(cmd.Help()) },
	}
	c.AddCommand(newPolicyImportCommand(), newPolicyDiffCommand(o), newPolicyReplayCommand(o), newPolicyProposeCommand(o), newPolicyDeniesCommand(o))
	return c
}

// whatIf reads files into the question what they would change.
func whatIf(cmd *cobra.Command, files []string, selector, since string) (*api.WhatIfRequest, error) {
	if len(files) == 0 {
		return nil, usage(errors.New("give -f FILE, -f DIRECTORY or -f -"))
	}
	since, err := hours(since)
	if err != nil {
		return nil, err
	}
	items, err := manifest.Load(files, cmd.InOrStdin())
	if err != nil {
		return nil, faulty(cmd, err)
	}
	var list []model.Resource
	for _, i := range items {
		if k := i.Resource.GetKind(); k != model.KindPolicy && k != model.KindGroup {
			return nil, fmt.Errorf("%s:%d: %s is no policy and no group; leave it out", i.File, i.Line, model.Ref(i.Resource))
		}
		list = append(list, i.Resource)
	}
	return client.WhatIf(list, selector, since)
}

// hours turns days, which people say, into what durations have.
func hours(text string) (string, error) {
	days, ok := strings.CutSuffix(text, "d")
	if !ok {
		return text, nil
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil || n == 0 {
		return "", usage(fmt.Errorf("--since %s is no duration; write it like 30m, 24h or 7d", text))
	}
	return fmt.Sprintf("%dh", 24*n), nil
}

func checkOutput(output string, allowed ...string) error {
	for _, a := range allowed {
		if output == a {
			return nil
		}
	}
	return usage(fmt.Errorf("-o %s is none of %s", output, strings.Join(allowed, ", ")))
}

func addFiles(c *cobra.Command, files *[]string) {
	c.Flags().StringArrayVarP(files, "filename", "f", nil, "file, directory, or - for standard input; may be repeated")
	c.MarkFlagFilename("filename", "yaml", "yml", "json") //nolint:errcheck // the flag exists
}
