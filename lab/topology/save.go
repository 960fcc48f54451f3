package topology

import (
	"encoding/json"
	"fmt"
	"os"
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

// CheckContainer checks a container that did not come from a file.
func CheckContainer(c Container) error {
	v := validator{topology: &Topology{}}
	v.workloads("host", &Host{Name: "host", Containers: []Container{c}})
	if len(v.errs) > 0 {
		return fmt.Errorf("%s: %s", v.errs[0].Field, v.errs[0].Message)
	}
	return nil
}
