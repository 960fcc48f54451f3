package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"weft/cmd/weft/contexts"
	"weft/controller/api"
	"weft/controller/api/client"
	"weft/model"
)

// defaultSocket is where a controller on this machine listens.
const defaultSocket = "/run/weft/api.sock"

// localSocket is defaultSocket unless $WEFT_SOCKET names another.
func localSocket() string {
	if s := os.Getenv("WEFT_SOCKET"); s != "" {
		return s
	}
	return defaultSocket
}

// options are the flags that say which controller a command speaks to.
type options struct {
	server    string
	context   string
	tokenFile string
}

// addClientCommands adds everything that speaks to a controller's API.
func addClientCommands(root *cobra.Command) {
	o := &options{}
	root.AddGroup(&cobra.Group{ID: "resources", Title: "Resources:"}, &cobra.Group{ID: "access", Title: "Access:"}, &cobra.Group{ID: "programs", Title: "Programs:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			o.flags(c)
			root.AddCommand(c)
		}
	}
	add("resources", newApplyCommand(o), newConfirmCommand(o), newGetCommand(o), newDescribeCommand(o), newEditCommand(o), newDeleteCommand(o), newDiffCommand(o),
		newLabelCommand(o), newGroupCommand(o), newPolicyCommand(o), newFlowsCommand(o), newCaptureCommand(o), newProbeCommand(o), newTopCommand(o), newAlertCommand(o), newExplainCommand(o), newAuditCommand(o))
	add("access", newLoginCommand(), newContextCommand(), newTokenCommand(o), newAccessCommand(o))
	for _, c := range root.Commands() {
		if c.GroupID == "" {
			c.GroupID = "programs"
		}
	}
	root.AddCommand(newCompletionCommand(), newVersionCommand(o))
	root.CompletionOptions.DisableDefaultCmd = true
	markUsage(root)
}

// markUsage makes every fault of a command's arguments one of usage.
func markUsage(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			var exit *exitError
			if err == nil || errors.As(err, &exit) {
				return err
			}
			return usage(fmt.Errorf("%w; see %s --help", err, cmd.CommandPath()))
		}
	}
	for _, sub := range c.Commands() {
		markUsage(sub)
	}
}

func (o *options) flags(c *cobra.Command) {
	if c.Name() == "login" || c.Name() == "context" {
		return
	}
	f := c.PersistentFlags()
	f.StringVar(&o.server, "server", "", "controller: https://HOST[:PORT] or unix:///PATH (default $WEFT_SERVER, then the context)")
	f.StringVar(&o.context, "context", "", "context to use (default $WEFT_CONTEXT, then the current one)")
	f.StringVar(&o.tokenFile, "token-file", "", "file with an access token, with --server")
}

// errNoController is what connect ends with where nothing names one.
var errNoController = errors.New("no controller known; log in to one: weft login https://CONTROLLER --token-file FILE, or give --server")

// connect finds the controller: --server, $WEFT_SERVER, the context, and at last
// the socket of one on this machine ($WEFT_SOCKET, or /run/weft/api.sock).
func (o *options) connect() (*client.Client, error) {
	server, name := o.server, o.context
	if server == "" && name == "" {
		server = os.Getenv("WEFT_SERVER")
	}
	if server != "" {
		return o.connectTo(server)
	}
	if name == "" {
		name = os.Getenv("WEFT_CONTEXT")
	}
	all, err := contexts.Load()
	if err != nil {
		return nil, err
	}
	c, err := all.Find(name)
	if err != nil {
		return nil, err
	}
	if c != nil {
		return client.New(client.Config{Server: c.Server, Token: c.Token, CA: []byte(c.CA)})
	}
	if _, err := os.Stat(localSocket()); err == nil {
		return client.New(client.Config{Server: "unix://" + localSocket()})
	}
	return nil, errNoController
}

func (o *options) connectTo(server string) (*client.Client, error) {
	cfg := client.Config{Server: server}
	if o.tokenFile != "" {
		token, err := readToken(o.tokenFile, os.Stdin)
		if err != nil {
			return nil, err
		}
		cfg.Token = token
	} else if strings.HasPrefix(server, "https:") {
		// A context for the same server has the token.
		all, err := contexts.Load()
		if err != nil {
			return nil, err
		}
		for _, c := range all.Contexts {
			if c.Server == strings.TrimRight(server, "/") {
				cfg.Token, cfg.CA = c.Token, []byte(c.CA)
			}
		}
		if cfg.Token == "" {
			return nil, fmt.Errorf("no token for %s; give --token-file, or log in: weft login %s --token-file FILE", server, server)
		}
	}
	return client.New(cfg)
}

func readToken(file string, stdin io.Reader) (string, error) {
	const most = 4096
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("read token: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, most))
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// exactly, atLeast and atMost check the number of arguments; the error is one of
// usage and names what is wanted.
func exactly(n int, want string) cobra.PositionalArgs { return between(n, n, want) }
func atLeast(n int, want string) cobra.PositionalArgs { return between(n, 1<<30, want) }

func between(low, high int, want string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < low || len(args) > high {
			return usage(fmt.Errorf("want %s, have %q; see %s --help", want, strings.Join(args, " "), cmd.CommandPath()))
		}
		return nil
	}
}

// kindAndNames reads "KIND [NAME...]" or "KIND/NAME...".
func kindAndNames(args []string) (model.KindInfo, []string, error) {
	kind, name, slash := strings.Cut(args[0], "/")
	info, err := model.FindKind(kind)
	if err != nil {
		return info, nil, usage(err)
	}
	if !slash {
		return info, args[1:], nil
	}
	names := []string{name}
	for _, a := range args[1:] {
		k, n, ok := strings.Cut(a, "/")
		if other, err := model.FindKind(k); !ok || err != nil || other.Kind != info.Kind {
			return info, nil, usage(fmt.Errorf("%q is not of the form %s/NAME, as the first is", a, kind))
		}
		names = append(names, n)
	}
	return info, names, nil
}

// explainProblem prints each fault of a refusal on its own line.
func explainProblem(err error) error {
	var p *api.Problem
	if !errors.As(err, &p) || len(p.Errors) == 0 {
		return err
	}
	lines := make([]string, len(p.Errors))
	for i, f := range p.Errors {
		lines[i] = f.Error()
	}
	return errors.New(strings.Join(lines, "\n      "))
}

func warn(cmd *cobra.Command, ref string, warnings []string) {
	for _, w := range warnings {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s: %s\n", ref, w)
	}
}

// screen returns the width of the terminal that a command prints to and whether
// it may use colours (https://no-color.org); no terminal has width 80 and none.
func screen(cmd *cobra.Command) (width int, color bool) {
	f, ok := cmd.OutOrStdout().(*os.File)
	if !ok {
		return 80, false
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return 80, false
	}
	color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col < 40 {
		return 80, color
	}
	return int(size.Col), color
}
