package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/inlab"
	"weft/lab"
)

// newLabCommand is "weft lab": networks of namespaces on this machine.
func newLabCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "lab",
		Short:   "Build a network of hosts, switches, NAT boxes and clouds on this machine",
		Example: "  sudo weft lab up hybrid.yaml\n  sudo weft lab exec web-1 -- ip address\n  sudo weft lab down",
	}
	c.AddCommand(newLabUpCommand(), newLabDownCommand(), newLabListCommand(), newLabExecCommand(), newLabPcapCommand(), newLabServeCommand(),
		newLabStartCommand(), newLabLinkCommand(), newLabMatrixCommand(), newLabWorkerCommand())
	return c
}

func newLabListCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:     "ls [LAB]",
		Short:   "List labs, or the hosts of one",
		Example: "  weft lab ls\n  weft lab ls hybrid",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			labs, err := lab.List()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				l, err := lab.Open(args[0])
				if err != nil {
					return err
				}
				if output == "json" {
					return printJSON(cmd.OutOrStdout(), l.State())
				}
				return printLab(cmd.OutOrStdout(), l)
			}
			switch output {
			case "json":
				if labs == nil {
					labs = []lab.Listed{}
				}
				return printJSON(cmd.OutOrStdout(), labs)
			case "table":
				return printLabs(cmd.OutOrStdout(), labs)
			}
			return fmt.Errorf("output %q is none of table, json", output)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func printLabs(w io.Writer, labs []lab.Listed) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "LAB\tTOPOLOGY\tSTATE\tHOSTS\tOWNER\tAGE")
	for _, l := range labs {
		state, up := "up", 0
		if !l.Alive {
			state = "dead"
		}
		for _, h := range l.Hosts {
			if h.Up {
				up++
			}
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d/%d\t%d\t%s\n", l.ID, l.Name, state, up, len(l.Hosts), l.OwnerPID, time.Since(l.Created).Round(time.Second))
	}
	return tw.Flush()
}

// printLab prints the hosts and containers of a lab, and where its controller
// answers.
func printLab(w io.Writer, l *lab.Lab) error {
	s := l.State()
	fmt.Fprintf(w, "lab %s (%s)\n", s.ID, s.Name)
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "HOST\tKIND\tSTATE\tADDRESSES\tNAMESPACE")
	for _, h := range s.Hosts {
		kind, state := "host", "up"
		if h.Router {
			kind = "router"
		}
		if !h.Up {
			state = "later"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", h.Name, kind, state, strings.Join(h.Addresses, ","), nsName(h.NetNS))
		for _, c := range h.Containers {
			fmt.Fprintf(tw, "%s/%s\tcontainer\tup\t%s\t%s\n", h.Name, c.Name, c.Address, nsName(c.NetNS))
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if socket, ok := inlab.Socket(l); ok {
		fmt.Fprintf(w, "\nexport WEFT_SERVER=unix://%s\n", socket)
	}
	return nil
}

func nsName(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

func newLabDownCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:     "down [LAB]",
		Short:   "End a lab and remove everything of it; sweep labs whose owner is dead",
		Example: "  sudo weft lab down\n  sudo weft lab down hybrid",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			swept, err := lab.Sweep()
			for _, id := range swept {
				fmt.Fprintf(cmd.OutOrStdout(), "lab %s swept\n", id)
			}
			if err != nil {
				return err
			}
			var ids []string
			if all {
				labs, err := lab.List()
				if err != nil {
					return err
				}
				for _, l := range labs {
					ids = append(ids, l.ID)
				}
			} else {
				which := ""
				if len(args) == 1 {
					which = args[0]
				}
				l, err := lab.Open(which)
				if err != nil {
					if len(swept) > 0 {
						return nil
					}
					return err
				}
				ids = []string{l.ID}
			}
			for _, id := range ids {
				if err := lab.Stop(id, 30*time.Second); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "lab %s down\n", id)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&all, "all", false, "every lab on this machine")
	return c
}

func newLabExecCommand() *cobra.Command {
	var which string
	c := &cobra.Command{
		Use:   "exec HOST[/CONTAINER] -- COMMAND [ARGUMENT...]",
		Short: "Run a command on a host or in a container of a lab",
		Example: "  weft lab exec web-1 -- ip address\n" +
			"  weft lab exec web-1/web-1a -- curl -s http://www/",
		Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := lab.Open(which)
			if err != nil {
				return err
			}
			where, err := l.Find(args[0])
			if err != nil {
				return err
			}
			argv := args[1:]
			if argv[0] == "--" {
				argv = argv[1:]
			}
			if len(argv) == 0 {
				return errors.New("command is missing; write for example weft lab exec HOST -- ip address")
			}
			return lab.Exec(where, argv)
		},
	}
	c.Flags().StringVarP(&which, "lab", "l", "", "id or topology name of the lab, where several are up")
	c.Flags().SetInterspersed(false)
	return c
}

func newLabPcapCommand() *cobra.Command {
	var which, file string
	c := &cobra.Command{
		Use:     "pcap LINK [-w FILE] [-- TCPDUMP-ARGUMENT...]",
		Short:   "Capture what crosses a link (HOST or HOST@SWITCH) with tcpdump",
		Example: "  sudo weft lab pcap web-1\n  sudo weft lab pcap web-1 -w web-1.pcap -- -c 100",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := lab.Open(which)
			if err != nil {
				return err
			}
			ns, device, err := l.Tap(args[0])
			if err != nil {
				return err
			}
			if _, err := exec.LookPath("tcpdump"); err != nil {
				return errors.New("tcpdump is not installed; install the package tcpdump")
			}
			argv := []string{"tcpdump", "-n", "-i", device}
			if file != "" {
				// -Z root: tcpdump would give up the right to write the file.
				argv = append(argv, "-U", "-Z", "root", "-w", file)
			}
			return lab.ExecIn(ns, append(argv, args[1:]...))
		},
	}
	c.Flags().StringVarP(&which, "lab", "l", "", "id or topology name of the lab, where several are up")
	c.Flags().StringVarP(&file, "write", "w", "", "write packets to a file, - for standard output")
	return c
}

// openLog opens the log of a lab in its run directory.
func openLog(l *lab.Lab) (*os.File, error) {
	return os.OpenFile(l.Dir()+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}
