package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/model"
)

func newCompletionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a script that completes commands, kinds and names",
		Example: `  source <(weft completion bash)
  weft completion zsh > "${fpath[1]}/_weft"
  weft completion fish > ~/.config/fish/completions/weft.fish`,
		Args:      exactly(1, "bash, zsh or fish"),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root, w := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(w, true)
			case "zsh":
				return root.GenZshCompletion(w)
			case "fish":
				return root.GenFishCompletion(w, true)
			}
			return usage(fmt.Errorf("shell %q is none of bash, zsh, fish", args[0]))
		},
	}
}

type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeKindAndNames completes KIND first, then names of that kind.
func completeKindAndNames(o *options) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			var kinds []string
			for _, k := range model.Kinds {
				kinds = append(kinds, k.Plural, strings.ToLower(string(k.Kind)))
			}
			return kinds, cobra.ShellCompDirectiveNoFileComp
		}
		info, err := model.FindKind(args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return completeNames(o, info)(cmd, args[1:], word)
	}
}

// completeNames asks the controller, for no longer than a person waits.
func completeNames(o *options, info model.KindInfo) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		cl, err := o.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		list, err := cl.List(ctx, info, "")
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, r := range list {
			names = append(names, r.Meta().Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func completeGroups(o *options) completer { return completeNames(o, model.MustKind(model.KindGroup)) }

// completeList completes the last of several names with commas between.
func completeList(one completer) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		before, given := "", strings.Split(word, ",")
		if i := strings.LastIndex(word, ","); i >= 0 {
			before, word = word[:i+1], word[i+1:]
		}
		names, directive := one(cmd, args, word)
		var out []string
		for _, n := range names {
			if !slices.Contains(given[:len(given)-1], n) {
				out = append(out, before+n)
			}
		}
		return out, directive
	}
}
