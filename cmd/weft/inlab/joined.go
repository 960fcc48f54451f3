package inlab

import (
	"encoding/json"
	"fmt"

	"weft/lab"
	"weft/model"
)

// joined returns an error that names a machine that is not online with all its
// workloads.
func joined(list []byte, machines []*lab.Host) error {
	var hosts []model.Host
	if err := json.Unmarshal(list, &hosts); err != nil {
		return fmt.Errorf("decode hosts: %w", err)
	}
	seen := map[string]int{}
	for _, h := range hosts {
		if h.Status.State == model.HostOnline {
			seen[h.Metadata.Name] = h.Status.Workloads
		}
	}
	for _, h := range machines {
		if want := 1 + len(h.Containers()); seen[h.Name] < want {
			return fmt.Errorf("agent on %s has not joined with its %d workloads", h.Name, want)
		}
	}
	return nil
}
