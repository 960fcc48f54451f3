package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"weft/cmd/weft/manifest"
	"weft/cmd/weft/show"
	"weft/model"
)

func newEditCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "edit KIND NAME",
		Short: "Change a resource in an editor",
		Long: `Open a resource in $VISUAL, $EDITOR or vi, and apply what comes out. What is
wrong is written into the file as comments and the editor opens again. A change
that somebody else made meanwhile is not overwritten.`,
		Example: `  weft edit tap web-to-ids
  EDITOR=nano weft edit group web`,
		Args: between(1, 2, "KIND NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			info, names, err := kindAndNames(args)
			if err != nil {
				return err
			}
			if len(names) != 1 {
				return usage(errors.New("give one name"))
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			r, err := cl.Get(cmd.Context(), info, names[0])
			if err != nil {
				return err
			}
			intent, err := show.Intent(r, true)
			if err != nil {
				return err
			}
			original, err := show.YAML(intent)
			if err != nil {
				return err
			}
			file, err := os.CreateTemp("", "weft-*.yaml")
			if err != nil {
				return fmt.Errorf("edit: %w", err)
			}
			file.Close()
			content := append([]byte(fmt.Sprintf("# %s: save and leave to apply; leave it as it is to cancel.\n", model.Ref(r))), original...)
			for {
				edited, err := editText(cmd, file.Name(), content)
				if err != nil {
					return err
				}
				if bytes.Equal(bytes.TrimSpace(stripComments(edited)), bytes.TrimSpace(original)) || len(bytes.TrimSpace(stripComments(edited))) == 0 {
					os.Remove(file.Name())
					fmt.Fprintf(cmd.ErrOrStderr(), "%s left as it is\n", model.Ref(r))
					return nil
				}
				items, faults := manifest.Parse(file.Name(), edited)
				if len(faults) == 0 && (len(items) != 1 || model.Ref(items[0].Resource) != model.Ref(r)) {
					faults = manifest.Faults{"want exactly " + model.Ref(r) + ", as it was opened"}
				}
				if len(faults) == 0 {
					_, warnings, err := cl.Replace(cmd.Context(), items[0].Resource, false)
					if err == nil {
						os.Remove(file.Name())
						fmt.Fprintf(cmd.OutOrStdout(), "%s edited\n", model.Ref(r))
						warn(cmd, model.Ref(r), warnings)
						return nil
					}
					var fatal error
					if faults, fatal = explainItem(items[0], err); fatal != nil {
						return fmt.Errorf("%w; your text is kept in %s", fatal, file.Name())
					}
				}
				if !interactive() {
					return fmt.Errorf("%w\nyour text is kept in %s", faults, file.Name())
				}
				content = withFaults(file.Name(), edited, faults)
			}
		},
		ValidArgsFunction: completeKindAndNames(o),
	}
}

func interactive() bool {
	_, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	return err == nil
}

func editText(cmd *cobra.Command, file string, content []byte) ([]byte, error) {
	if err := os.WriteFile(file, content, 0o600); err != nil {
		return nil, fmt.Errorf("edit: %w", err)
	}
	editor := os.Getenv("VISUAL")
	if editor == "" {
		editor = os.Getenv("EDITOR")
	}
	if editor == "" {
		editor = "vi"
	}
	// As other programs do, the shell splits $EDITOR ("code --wait").
	c := exec.CommandContext(cmd.Context(), "/bin/sh", "-c", editor+` "$1"`, "editor", file)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := c.Run(); err != nil {
		return nil, fmt.Errorf("run editor %q: %w; set EDITOR to another", editor, err)
	}
	return os.ReadFile(file)
}

func stripComments(text []byte) []byte {
	var out []byte
	for line := range bytes.Lines(text) {
		if !bytes.HasPrefix(line, []byte("#")) {
			out = append(out, line...)
		}
	}
	return out
}

// withFaults puts the faults in front, without the file's name.
func withFaults(file string, text []byte, faults manifest.Faults) []byte {
	var b strings.Builder
	b.WriteString("# Not applied:\n")
	for _, f := range faults {
		// The line counts in this file change with what is put in front.
		_, f, _ := strings.Cut(strings.TrimPrefix(f, file+":"), ": ")
		b.WriteString("# - " + strings.ReplaceAll(f, "\n", "\n#   ") + "\n")
	}
	b.Write(stripComments(text))
	return []byte(b.String())
}
