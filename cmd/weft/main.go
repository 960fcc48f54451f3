// Command weft is the full program: the command line, the controller, the
// relay, the lab and the demo.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"weft/internal/version"
)

func main() { os.Exit(execute()) }

func execute() int {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	err := newRootCommand().ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	code := 1
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
	} else if strings.HasPrefix(err.Error(), "unknown command") {
		code = 2 // cobra has no type for it
	}
	if text := err.Error(); text != "" && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(os.Stderr, "weft: %s\n", text)
	}
	return code
}

// exitError ends the program with a status of its own; an empty error says
// nothing.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usage marks an error as one of the command line: exit status 2.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{2, err}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "weft",
		Short:         "Network visibility and security inside the workloads of a hybrid cloud",
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage(fmt.Errorf("%w; see %s --help", err, cmd.CommandPath()))
	})
	root.AddCommand(newControllerCommand(), newDemoCommand(), newLabCommand(), newRelayCommand())
	addClientCommands(root)
	return root
}
