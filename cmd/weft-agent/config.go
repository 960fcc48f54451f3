package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"weft/model"
)

// defaultConfigFile is read where it is there and no other is named.
const defaultConfigFile = "/etc/weft/agent.yaml"

// config is the agent's configuration file. Flags go over it.
type config struct {
	// Controller is where to join and to keep the session: https://HOST:PORT.
	Controller string `yaml:"controller"`
	// TokenFile holds a join token, used once.
	TokenFile string `yaml:"tokenFile,omitempty"`
	// Name of this host; the machine's host name unless given.
	Name string `yaml:"name,omitempty"`
	// StateDir holds the identity and the last-known-good state; this agent's own.
	StateDir string `yaml:"stateDir"`
	// CgroupRoot is the cgroup2 directory below which workloads are looked for;
	// where cgroup2 is mounted unless given.
	CgroupRoot string `yaml:"cgroupRoot,omitempty"`
	// BPFDir is a directory on a BPF file system, this agent's own.
	BPFDir string `yaml:"bpfDir"`
	// Attach is how BPF programs are attached to interfaces: auto, tcx (kernel
	// 6.6 and later) or clsact; auto unless given.
	Attach string `yaml:"attach,omitempty"`
	// Datapath is what enforces policy: auto, bpf or nft (nftables, which knows
	// no processes and no domain names); auto, unless given, takes bpf where the
	// kernel can.
	Datapath string `yaml:"datapath,omitempty"`
	// Listen is where a tool's host accepts streams from agents directly.
	Listen string `yaml:"listen"`
	// Labels are this host's own.
	Labels map[string]string `yaml:"labels,omitempty"`
	// LabelsDir holds files of further labels, "key=value" lines; "-" for none.
	LabelsDir string `yaml:"labelsDir"`
	// Metadata is the cloud's metadata service; "-" asks none.
	Metadata string `yaml:"metadata"`
	// DockerSockets are where engines that speak Docker's API may answer.
	DockerSockets []string `yaml:"dockerSockets"`
	// ContainerdSocket is where containerd may answer.
	ContainerdSocket string `yaml:"containerdSocket"`
	// Mirrors are interfaces at which this machine hears what others say to one
	// another: a switch's mirror port, or where a cloud's mirror arrives. Each has
	// interface, its name, and may have unwrap: true, to look into the VXLAN, GENEVE,
	// GRE, ERSPAN or IP in IP that a mirror comes in.
	Mirrors []mirrorConfig `yaml:"mirrors,omitempty"`
	// Collectors are UDP ports at which routers, switches and probes report flows:
	// NetFlow 5 and 9, IPFIX, sFlow 5. Each has listen, [ADDRESS]:PORT, and from, the
	// addresses or CIDR blocks of those who may report: anybody who can send from one of
	// these is believed.
	Collectors []collectorConfig `yaml:"collectors,omitempty"`
	// Captures is on or off; on unless given. Off, this host takes part in no weft
	// capture, whoever asks for one.
	Captures string `yaml:"captures,omitempty"`
	// Probes is on or off; on unless given. Off, this host asks nothing for a weft probe,
	// scheduled or not, whoever wants it to.
	Probes string `yaml:"probes,omitempty"`
	// Sandbox is on or off; on unless given. On, the agent gives up all that its
	// work does not need: capabilities, and system calls. Off is for finding out
	// whether that is what is in the way.
	Sandbox string `yaml:"sandbox,omitempty"`
	// Log is debug, info, warn or error.
	Log string `yaml:"log"`
}

// mirrorConfig is an interface that is listened to, in promiscuous mode.
type mirrorConfig struct {
	Interface string `yaml:"interface"`
	Unwrap    bool   `yaml:"unwrap,omitempty"`
}

// collectorConfig is a port at which flows are reported.
type collectorConfig struct {
	Listen string   `yaml:"listen"`
	From   []string `yaml:"from"`
}

// exporters reads From.
func (c collectorConfig) exporters() ([]netip.Prefix, error) {
	out := make([]netip.Prefix, len(c.From))
	for i, text := range c.From {
		if a, err := netip.ParseAddr(text); err == nil {
			out[i] = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%q: want an address or a CIDR block, as 10.0.0.0/8", text)
		}
		out[i] = p.Masked()
	}
	if len(out) == 0 {
		return nil, errors.New("is missing; name those who may report, as [10.0.0.0/8]")
	}
	return out, nil
}

func defaultConfig() config {
	name, _ := os.Hostname()
	return config{
		Name: strings.ToLower(name), StateDir: "/var/lib/weft-agent", BPFDir: "/sys/fs/bpf/weft", Listen: ":7444",
		LabelsDir: "/etc/weft/labels.d", Metadata: "http://169.254.169.254",
		DockerSockets: []string{"/run/docker.sock", "/run/podman/podman.sock"}, ContainerdSocket: "/run/containerd/containerd.sock", Log: "info",
	}
}

// flags are the command line's say in the configuration.
type flags struct {
	file   string
	labels []string
	config config
}

func (f *flags) register(cmd *cobra.Command) {
	set := cmd.Flags()
	set.StringVar(&f.file, "config", "", "configuration file (default "+defaultConfigFile+", where it is there)")
	set.StringVar(&f.config.Controller, "controller", "", "the controller, https://HOST:PORT")
	set.StringVar(&f.config.TokenFile, "token-file", "", "file with a join token; needed once")
	set.StringVar(&f.config.Name, "name", "", "name of this host (default: its host name)")
	set.StringVar(&f.config.StateDir, "state-dir", "", "directory of keys and last-known-good state (default /var/lib/weft-agent)")
	set.StringVar(&f.config.CgroupRoot, "cgroup-root", "", "cgroup2 directory below which workloads are looked for (default: all)")
	set.StringVar(&f.config.BPFDir, "bpf-dir", "", "directory on a BPF file system for pinned objects (default /sys/fs/bpf/weft)")
	set.StringVar(&f.config.Datapath, "datapath", "", "what enforces policy: auto, bpf or nft (default auto)")
	set.StringVar(&f.config.Listen, "listen", "", "where a tool's host accepts streams directly (default :7444)")
	set.StringArrayVar(&f.labels, "labels", nil, "labels of this host, key=value,…; may be given again")
	set.StringVar(&f.config.LabelsDir, "labels-dir", "", "directory of files with labels (default /etc/weft/labels.d; - for none)")
	set.StringVar(&f.config.Metadata, "metadata", "", "cloud metadata service (default http://169.254.169.254; - for none)")
	set.StringVar(&f.config.Log, "log", "", "debug, info, warn or error (default info)")
}

// load reads the file, puts the flags over it and checks the whole.
func (f *flags) load() (config, error) {
	c := defaultConfig()
	file := cmp.Or(f.file, defaultConfigFile)
	data, err := os.ReadFile(file)
	switch {
	case err == nil:
		if c, err = decodeConfig(file, data); err != nil {
			return c, err
		}
	case f.file != "" || !errors.Is(err, fs.ErrNotExist):
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if err := f.overlay(&c); err != nil {
		return c, err
	}
	return c, c.check()
}

// overlay puts the flags over a configuration.
func (f *flags) overlay(c *config) error {
	over := func(dst *string, v string) { *dst = cmp.Or(v, *dst) }
	over(&c.Controller, f.config.Controller)
	over(&c.TokenFile, f.config.TokenFile)
	over(&c.Name, f.config.Name)
	over(&c.StateDir, f.config.StateDir)
	over(&c.CgroupRoot, f.config.CgroupRoot)
	over(&c.BPFDir, f.config.BPFDir)
	over(&c.Listen, f.config.Listen)
	over(&c.Datapath, f.config.Datapath)
	over(&c.LabelsDir, f.config.LabelsDir)
	over(&c.Metadata, f.config.Metadata)
	over(&c.Log, f.config.Log)
	for _, text := range f.labels {
		for part := range strings.SplitSeq(text, ",") {
			key, value, ok := strings.Cut(part, "=")
			if !ok {
				return fmt.Errorf("--labels %q: want key=value", part)
			}
			if c.Labels == nil {
				c.Labels = map[string]string{}
			}
			c.Labels[key] = value
		}
	}
	return nil
}

// decodeConfig reads a file over the defaults. Errors name file, line and field.
func decodeConfig(file string, data []byte) (config, error) {
	c := defaultConfig()
	err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(&c)
	if err == nil || errors.Is(err, io.EOF) {
		c.Name = cmp.Or(c.Name, defaultConfig().Name)
		return c, nil
	}
	// "[line:column] message" and the line itself below.
	text := yaml.FormatError(err, false, false)
	if rest, ok := strings.CutPrefix(text, "["); ok {
		if at, message, ok := strings.Cut(rest, "] "); ok {
			text = at + ": " + message
		}
	}
	return c, fmt.Errorf("%s:%s", file, strings.TrimSpace(text))
}

// check returns every fault at once.
func (c config) check() error {
	var errs []error
	fault := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{field}, args...)...))
	}
	switch u, err := url.Parse(c.Controller); {
	case c.Controller == "":
		fault("controller", "is missing; give the controller's address, https://HOST:PORT (--controller)")
	case err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "":
		fault("controller", "%q: want https://HOST:PORT", c.Controller)
	}
	if err := model.CheckName(c.Name); err != nil {
		fault("name", "%v (--name)", err)
	}
	for field, dir := range map[string]string{"stateDir": c.StateDir, "bpfDir": c.BPFDir} {
		if !filepath.IsAbs(dir) {
			fault(field, "%q is no absolute path", dir)
		}
	}
	if c.Datapath != "" && !slices.Contains([]string{"auto", "bpf", "nft"}, c.Datapath) {
		fault("datapath", "%q is none of auto, bpf, nft", c.Datapath)
	}
	if c.Attach != "" && !slices.Contains([]string{"auto", "tcx", "clsact"}, c.Attach) {
		fault("attach", "%q is none of auto, tcx, clsact", c.Attach)
	}
	if c.Sandbox != "" && c.Sandbox != "on" && c.Sandbox != "off" {
		fault("sandbox", "%q is none of on, off", c.Sandbox)
	}
	if c.Captures != "" && c.Captures != "on" && c.Captures != "off" {
		fault("captures", "%q is none of on, off", c.Captures)
	}
	if c.Probes != "" && c.Probes != "on" && c.Probes != "off" {
		fault("probes", "%q is none of on, off", c.Probes)
	}
	for i, l := range c.Collectors {
		if _, _, err := net.SplitHostPort(l.Listen); err != nil {
			fault(fmt.Sprintf("collectors[%d].listen", i), "%q: want [ADDRESS]:PORT", l.Listen)
		}
		if _, err := l.exporters(); err != nil {
			fault(fmt.Sprintf("collectors[%d].from", i), "%v", err)
		}
	}
	heard := map[string]bool{}
	for i, m := range c.Mirrors {
		switch {
		case m.Interface == "":
			fault(fmt.Sprintf("mirrors[%d].interface", i), "is missing; name an interface, as ip link shows them")
		case len(m.Interface) > 15 || strings.ContainsAny(m.Interface, "/ \t\n"):
			fault(fmt.Sprintf("mirrors[%d].interface", i), "%q can be no interface's name", m.Interface)
		case heard[m.Interface]:
			fault(fmt.Sprintf("mirrors[%d].interface", i), "%s is named before, and would be counted twice", m.Interface)
		}
		heard[m.Interface] = true
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		fault("listen", "%q: want [ADDRESS]:PORT", c.Listen)
	}
	if u, err := url.Parse(c.Metadata); c.Metadata != "-" && (err != nil || u.Scheme != "http" || u.Host == "") {
		fault("metadata", "%q: want http://ADDRESS, or - for none", c.Metadata)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Labels)) {
		if err := model.CheckLabelKey(key); err != nil {
			fault("labels", "%v", err)
		} else if err := model.CheckLabelValue(c.Labels[key]); err != nil {
			fault("labels."+key, "%v", err)
		}
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log)); err != nil {
		fault("log", "%q is none of debug, info, warn, error", c.Log)
	}
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

func (c config) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Log)) // checked
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
