package main

import (
	"context"
	"encoding/json"
	"fmt"

	"weft/model"
)

// sum is a line of weft flows --group-by … -o json.
type sum struct {
	Key            map[string]string
	Connections    uint64
	Sent, Received model.Count
}

// flows asks the controller.
func (b *bench) flows(ctx context.Context, by, where string) ([]sum, error) {
	out, err := b.fleet.Weft(ctx, "", "flows", "--since", "24h", "--group-by", by, "--where", where, "--top", "1000", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list []sum
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("read what flows there are: %w", err)
	}
	return list, nil
}
