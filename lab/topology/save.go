package topology

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
)

// Save writes a checked topology as the lab's own record, so that another
// process plans exactly the same.
func (t *Topology) Save(path string) error {
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// LoadSaved reads what Save wrote.
func LoadSaved(path string) (*Topology, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var t Topology
	if err := json.Unmarshal(data, &t); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return &t, nil
}

// ParseContainer reads a container written as in a file's containers list.
func ParseContainer(text string) (Container, error) {
	var c Container
	err := yaml.NewDecoder(strings.NewReader(text), yaml.Strict()).Decode(&c)
	return c, err
}
