package identity

import (
	"context"
	"time"
)

// Run saves now and then, and once more when ctx ends.
func (t *Table) Run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return t.Save()
		case <-tick.C:
			if err := t.Save(); err != nil {
				t.cfg.Log.Warn("save identities", "error", err)
			}
		}
	}
}
