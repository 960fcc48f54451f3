package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"weft/cmd/weft/demo"
)

func newDemoCommand() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Bring up the hybrid lab with a controller, a relay, agents and the first tap",
		Long: `Bring up a whole hybrid company in network namespaces of this machine: a data
centre behind two NATs, a cloud that blocks UDP, a second provider, an internet
in between; start a controller, a relay and an agent on every host; and draw a
tap line from the web servers in the cloud to the IDS at home.

Nothing outside the namespaces is touched. Ctrl-C removes all of it.`,
		Example: `  sudo weft demo           # stays up until Ctrl-C
  sudo weft demo --once    # checks every step, tears down, exits with the verdict`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("the demo makes network namespaces: run it as root (sudo weft demo)")
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			err = demo.Run(cmd.Context(), cmd.OutOrStdout(), demo.Options{Bin: filepath.Dir(self), Once: once})
			if errors.Is(err, demo.ErrFailed) {
				return &exitError{code: 1} // the list has said it
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "check every step, tear down, and exit with the verdict")
	return cmd
}
