// Package contexts keeps the controllers a person has logged in to, in
// ~/.config/weft/config.yaml, readable by its owner only.
package contexts

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/goccy/go-yaml"
)

// Context is one controller and the token for it.
type Context struct {
	Name   string `yaml:"name"`
	Server string `yaml:"server"`
	CA     string `yaml:"ca,omitempty"` // authorities, PEM
	Token  string `yaml:"token"`
}

// Contexts is the whole file.
type Contexts struct {
	Current  string    `yaml:"current,omitempty"`
	Contexts []Context `yaml:"contexts,omitempty"`

	path string
}

// Path returns where the file is: $WEFT_CONFIG, or weft/config.yaml under
// $XDG_CONFIG_HOME or ~/.config.
func Path() (string, error) {
	if p := os.Getenv("WEFT_CONFIG"); p != "" {
		return p, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the configuration directory: %w; set WEFT_CONFIG to a file", err)
	}
	return filepath.Join(dir, "weft", "config.yaml"), nil
}

// Load reads the file; one that is not there is empty.
func Load() (*Contexts, error) {
	path, err := Path()
	if err != nil {
		return nil, err
	}
	c := &Contexts{path: path}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read contexts: %w", err)
	}
	if st, err := os.Stat(path); err == nil && st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s holds tokens and others may read it (mode %04o); run: chmod 600 %s", path, st.Mode().Perm(), path)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return c, nil
	}
	if err := yaml.UnmarshalWithOptions(data, c, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Save writes the file whole or not at all.
func (c *Contexts) Save() error {
	data, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode contexts: %w", err)
	}
	dir := filepath.Dir(c.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save contexts: %w", err)
	}
	tmp, err := os.CreateTemp(dir, ".config-*") // mode 0600
	if err != nil {
		return fmt.Errorf("save contexts: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("save contexts: %w", err)
	}
	if err := os.Rename(tmp.Name(), c.path); err != nil {
		return fmt.Errorf("save contexts: %w", err)
	}
	return nil
}

// Find returns a context by name; "" is the current one, nil where none is set.
func (c *Contexts) Find(name string) (*Context, error) {
	if name == "" && c.Current == "" {
		return nil, nil
	}
	if name == "" {
		name = c.Current
	}
	for i := range c.Contexts {
		if c.Contexts[i].Name == name {
			return &c.Contexts[i], nil
		}
	}
	return nil, fmt.Errorf("no context %q; weft context list shows those there are", name)
}

// Put adds or replaces a context and makes it the current one.
func (c *Contexts) Put(x Context) {
	c.Contexts = slices.DeleteFunc(c.Contexts, func(o Context) bool { return o.Name == x.Name })
	c.Contexts = append(c.Contexts, x)
	slices.SortFunc(c.Contexts, func(a, b Context) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	c.Current = x.Name
}

// Delete forgets a context.
func (c *Contexts) Delete(name string) error {
	if _, err := c.Find(name); err != nil {
		return err
	}
	c.Contexts = slices.DeleteFunc(c.Contexts, func(o Context) bool { return o.Name == name })
	if c.Current == name {
		c.Current = ""
	}
	return nil
}
