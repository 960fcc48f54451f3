package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/inlab"
	"weft/cmd/weft/manifest"
	"weft/cmd/weft/show"
	"weft/controller/api/client"
	"weft/lab"
	"weft/lab/reach"
	"weft/model"
)

// matrixFlags are those of "weft lab matrix".
type matrixFlags struct {
	lab, output   string
	files         []string
	timeout, wait time.Duration
}

func newLabMatrixCommand() *cobra.Command {
	var f matrixFlags
	c := &cobra.Command{
		Use:   "matrix TABLE",
		Short: "Try with real traffic who reaches whom, and compare it with a table",
		Long: `Try with real traffic who reaches whom in a running lab, and compare it with a
table that says who is to. Each line of the table is

  FROM  TO  SERVICE  allow|deny|reject

FROM and TO are places (HOST, HOST:CONTAINER, HOST:UNIT), patterns (web-*), groups
(group web = web-1 web-2, before or after), or hosts, containers, units; SERVICE
is tcp/PORT, udp/PORT or icmp; each may be a list with commas. The first line
that fits decides; # begins a comment. deny means no answer, reject a refusal.

The lab listens and calls at each place itself, in its namespace and cgroup. A
TCP port that a program of yours listens on is used as it is: there, a connection
that opens is an answer. With -f, policies are applied to the lab's own controller
(weft lab up --agents) and are in force before the first packet.

The exit status is 0 where all is as the table says, else 1.`,
		Example: `  sudo weft lab up --agents examples/two-node/topology.yaml
  sudo weft lab matrix examples/two-node/reach.table
  sudo weft lab matrix examples/two-node/reach.table -f policies.yaml -o json`,
		Args: exactly(1, "TABLE, or - for standard input"),
		RunE: func(cmd *cobra.Command, args []string) error { return runMatrix(cmd, args[0], f) },
	}
	c.Flags().StringVarP(&f.lab, "lab", "l", "", "id or topology name of the lab, where several are up")
	c.Flags().StringArrayVarP(&f.files, "filename", "f", nil, "policies and groups to apply first: file, directory; may be repeated")
	c.Flags().StringVarP(&f.output, "output", "o", "table", "table|json")
	c.Flags().DurationVar(&f.timeout, "timeout", time.Second, "silence of this length is no answer")
	c.Flags().DurationVar(&f.wait, "wait", 20*time.Second, "how long policies may take to be in force")
	return c
}

func runMatrix(cmd *cobra.Command, file string, f matrixFlags) error {
	if err := checkOutput(f.output, "table", "json"); err != nil {
		return err
	}
	text, err := readTable(cmd, file)
	if err != nil {
		return err
	}
	table, err := reach.Parse(file, text)
	if err != nil {
		return faultyTable(cmd, err)
	}
	l, err := lab.Open(f.lab)
	if err != nil {
		return err
	}
	probes, err := table.Probes(l.Places())
	if err != nil {
		return faultyTable(cmd, err)
	}
	if os.Geteuid() != 0 {
		return errors.New("the matrix enters the lab's namespaces: run it as root (sudo weft lab matrix)")
	}
	if len(f.files) > 0 {
		if err := enforce(cmd, l, f); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	began := time.Now()
	if err := reach.Run(cmd.Context(), reach.Config{Worker: []string{self, "lab", "worker"}, Timeout: f.timeout}, probes); err != nil {
		return err
	}
	failed, err := printMatrix(cmd, l, f.output, probes, time.Since(began))
	if err == nil && failed > 0 {
		err = &exitError{code: 1}
	}
	return err
}

func readTable(cmd *cobra.Command, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(cmd.InOrStdin())
	}
	return os.ReadFile(file)
}

// faultyTable prints every fault on a line of its own.
func faultyTable(cmd *cobra.Command, err error) error {
	var faults reach.Errors
	if !errors.As(err, &faults) {
		return err
	}
	for _, f := range faults {
		fmt.Fprintln(cmd.ErrOrStderr(), f)
	}
	return fmt.Errorf("%s in the table; nothing was tried", show.Plural(len(faults), "fault"))
}

func printMatrix(cmd *cobra.Command, l *lab.Lab, output string, probes []*reach.Probe, took time.Duration) (failed int, err error) {
	if output == "json" {
		type judged struct {
			*reach.Probe
			Holds bool `json:"holds"`
		}
		list := make([]judged, len(probes))
		for i, p := range probes {
			list[i] = judged{p, p.Holds()}
			if !p.Holds() {
				failed++
			}
		}
		return failed, show.JSON(cmd.OutOrStdout(), map[string]any{"lab": l.ID, "probes": list, "failed": failed, "took": took.Seconds()})
	}
	r := show.Reach{Probes: probes, Took: took}
	r.Width, r.Color = screen(cmd)
	return r.Print(cmd.OutOrStdout())
}

// enforce applies policies to the lab's controller and waits until every host
// works by them.
func enforce(cmd *cobra.Command, l *lab.Lab, f matrixFlags) error {
	socket, ok := inlab.Socket(l)
	if !ok {
		return fmt.Errorf("lab %s has no controller to give policies to; bring it up with weft lab up --agents", l.ID)
	}
	items, err := manifest.Load(f.files, cmd.InOrStdin())
	if err != nil {
		return faulty(cmd, err)
	}
	cl, err := client.New(client.Config{Server: "unix://" + socket})
	if err != nil {
		return err
	}
	if err := applyAll(quiet(cmd), cl, items, false); err != nil {
		return err
	}
	deadline := time.Now().Add(f.wait)
	for _, i := range items {
		if i.Resource.GetKind() != model.KindPolicy {
			continue
		}
		if err := inForce(cmd.Context(), cl, i.Resource.Meta().Name, deadline); err != nil {
			return err
		}
	}
	return nil
}

// quiet is the command with its words on standard error: its output is the matrix.
func quiet(cmd *cobra.Command) *cobra.Command {
	c := &cobra.Command{}
	c.SetContext(cmd.Context())
	c.SetOut(cmd.ErrOrStderr())
	c.SetErr(cmd.ErrOrStderr())
	return c
}

// inForce waits until every host that a policy is for has it as it is now.
func inForce(ctx context.Context, cl *client.Client, name string, deadline time.Time) error {
	for {
		r, err := cl.Get(ctx, model.MustKind(model.KindPolicy), name)
		if err != nil {
			return err
		}
		p := r.(*model.Policy)
		if p.Status.State != model.PolicyPending && p.Status.State != model.PolicyFailed {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("policy/%s is %s: %s", name, p.Status.State, p.Status.Message)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// newLabWorkerCommand is what "weft lab matrix" runs at each place.
func newLabWorkerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "worker",
		Short:  "Listen and call as told on standard input",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return reach.Work(cmd.Context(), os.Stdin, os.Stdout)
		},
	}
}
