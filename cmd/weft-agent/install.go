package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"weft/internal/keyfile"
)

//go:embed weft-agent.service.tmpl
var unitText string

const unitName = "weft-agent.service"

// installation is where the parts of an installed agent are.
type installation struct {
	root   string // all paths are below it; "/" for this machine
	prefix string
	out    io.Writer
}

func (i installation) path(p string) string { return filepath.Join(i.root, p) }
func (i installation) binary() string       { return filepath.Join(i.prefix, "bin/weft-agent") }
func (i installation) live() bool           { return filepath.Clean(i.root) == "/" }

// unit is where a package's units go, or an administrator's.
func (i installation) unit() string {
	if i.prefix == "/usr" {
		return "/usr/lib/systemd/system/" + unitName
	}
	return "/etc/systemd/system/" + unitName
}

func (i installation) register(cmd *cobra.Command, root, prefix *string) {
	cmd.Flags().StringVar(root, "root", "/", "write below this directory and start nothing (for packages)")
	cmd.Flags().StringVar(prefix, "prefix", "/usr/local", "where the program goes: PREFIX/bin; /usr for packages")
}

func newInstallCommand() *cobra.Command {
	var f flags
	var i installation
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install the agent as a systemd service and start it",
		Long: `Install the agent as a systemd service and start it: this program, a
configuration, the join token and a unit with the least privileges that the
agent can do its work with (each is explained in the unit itself).

A configuration that is there already is kept. Running install again upgrades
the program; what is tapped stays tapped meanwhile.`,
		Example: "  sudo weft-agent install --controller https://weft.example.org:7443 --token-file token",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i.out = cmd.OutOrStdout()
			return i.install(cmd.Context(), &f)
		},
	}
	f.register(cmd)
	i.register(cmd, &i.root, &i.prefix)
	return cmd
}

func (i installation) install(ctx context.Context, f *flags) error {
	if i.live() && os.Geteuid() != 0 {
		return errors.New("install a service: needs root; use sudo")
	}
	if err := i.writeConfig(f); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if err := i.copyBinary(self); err != nil {
		return err
	}
	var unit bytes.Buffer
	if err := template.Must(template.New("unit").Parse(unitText)).Execute(&unit, map[string]string{"Binary": i.binary(), "Config": defaultConfigFile}); err != nil {
		return fmt.Errorf("write unit: %w", err)
	}
	if err := i.write(i.unit(), unit.Bytes(), 0o644); err != nil {
		return err
	}
	if !i.live() {
		return nil
	}
	if _, err := exec.LookPath("systemctl"); err != nil {
		return fmt.Errorf("start the service: no systemctl here; everything is in place, run it by what this machine has: %s run --config %s", i.binary(), defaultConfigFile)
	}
	for _, args := range [][]string{{"daemon-reload"}, {"enable", unitName}, {"restart", unitName}} {
		if err := i.systemctl(ctx, args...); err != nil {
			return err
		}
	}
	fmt.Fprintf(i.out, "running; see: weft-agent status, journalctl -u weft-agent\n")
	return nil
}

// writeConfig writes the configuration unless there is one.
func (i installation) writeConfig(f *flags) error {
	path := i.path(defaultConfigFile)
	if data, err := os.ReadFile(path); err == nil {
		fmt.Fprintf(i.out, "keep   %s\n", path)
		if f.config.Controller != "" {
			c, err := decodeConfig(path, data)
			if err == nil && c.Controller != f.config.Controller {
				err = fmt.Errorf("%s names the controller %s, and not %s; edit it, or remove it and install again", path, c.Controller, f.config.Controller)
			}
			if err != nil {
				return err
			}
		}
		return i.copyToken(f.config.TokenFile)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read configuration: %w", err)
	}
	c := defaultConfig()
	if err := f.overlay(&c); err != nil {
		return err
	}
	if !i.live() && c.Controller == "" {
		return nil // a package carries no configuration: it is of the machine
	}
	if err := c.check(); err != nil {
		return err
	}
	if err := i.copyToken(c.TokenFile); err != nil {
		return err
	}
	if c.TokenFile != "" {
		c.TokenFile = installedToken
	}
	if f.config.Name == "" {
		c.Name = "" // asked of the machine at each start, so that an image can be copied
	}
	data, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return i.write(defaultConfigFile, append([]byte("# weft-agent; every field: weft-agent run --help, --print-config shows what is in force\n"), data...), 0o644)
}

const installedToken = "/etc/weft/join-token"

func (i installation) copyToken(from string) error {
	if from == "" || from == i.path(installedToken) {
		return nil
	}
	token, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read join token: %w", err)
	}
	return i.write(installedToken, token, 0o600)
}

func (i installation) write(path string, data []byte, mode fs.FileMode) error {
	path = i.path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if err := keyfile.Write(path, data, mode); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	fmt.Fprintf(i.out, "write  %s\n", path)
	return nil
}

func (i installation) copyBinary(self string) error {
	if same, err := os.Stat(i.path(i.binary())); err == nil {
		if me, err := os.Stat(self); err == nil && os.SameFile(same, me) {
			return nil
		}
	}
	data, err := os.ReadFile(self)
	if err != nil {
		return fmt.Errorf("read this program: %w", err)
	}
	return i.write(i.binary(), data, 0o755)
}

func (i installation) systemctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func newUninstallCommand() *cobra.Command {
	var i installation
	var purge bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Stop the service and remove it, with every kernel object of the agent",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i.out = cmd.OutOrStdout()
			return i.uninstall(cmd.Context(), purge)
		},
	}
	i.register(cmd, &i.root, &i.prefix)
	cmd.Flags().BoolVar(&purge, "purge", false, "remove the configuration, the identity and the state too")
	return cmd
}

func (i installation) uninstall(ctx context.Context, purge bool) error {
	c := defaultConfig()
	if data, err := os.ReadFile(i.path(defaultConfigFile)); err == nil {
		if c, err = decodeConfig(i.path(defaultConfigFile), data); err != nil {
			return err
		}
	}
	if i.live() {
		if os.Geteuid() != 0 {
			return errors.New("remove a service: needs root; use sudo")
		}
		if _, err := os.Stat(i.path(i.unit())); err == nil {
			if err := i.systemctl(ctx, "disable", "--now", unitName); err != nil {
				return err
			}
		}
		if err := removeKernelObjects(ctx, c); err != nil {
			return err
		}
	}
	gone := []string{i.unit(), i.binary()}
	if purge {
		gone = append(gone, defaultConfigFile, installedToken, c.StateDir)
	}
	var errs []error
	for _, path := range gone {
		if _, err := os.Lstat(i.path(path)); err == nil {
			fmt.Fprintf(i.out, "remove %s\n", i.path(path))
			errs = append(errs, os.RemoveAll(i.path(path)))
		}
	}
	if i.live() {
		errs = append(errs, i.systemctl(ctx, "daemon-reload"))
	}
	return errors.Join(errs...)
}
