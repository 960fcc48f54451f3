package export

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/controller/flowstore"
)

// A broker that speaks the real protocol, in this process: who logs in gets flows
// in, each once, and a connection's in one partition.
func TestKafkaHasEachFlowOnce(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(4, "flows"), kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "weft", "SECRET"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("SECRET\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	brokers := strings.Join(cluster.ListenAddrs(), "', '")
	e, stop := w.run(fmt.Sprintf("exporters:\n- {name: k, kafka: {brokers: ['%s'], topic: flows, mechanism: SCRAM-SHA-256, user: weft, passwordFile: %s}}\n", brokers, password), Deps{})
	defer stop()
	for range 3 { // reports of the same connections
		w.add(1000, 500, nil)
	}
	await(t, "all flows", func() bool { return e.followers[0].state().Sent == 1500 })
	s := settings(t, fmt.Sprintf("exporters:\n- {name: k, kafka: {brokers: ['%s'], topic: flows, mechanism: SCRAM-SHA-256, user: weft, passwordFile: %s}}\n", brokers, password))
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("flows"), kgo.SASL(s.Exporters[0].Kafka.login()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	partitions, ids := map[int]int32{}, []uint64{}
	for len(ids) < 1500 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			var f flowstore.Flow
			if err := json.Unmarshal(r.Value, &f); err != nil {
				t.Fatal(err)
			}
			port := int(f.Client.Port)
			if want := fmt.Sprintf("6 10.0.0.1:%d 10.0.0.2:5432", port); string(r.Key) != want {
				t.Errorf("the key is %s, not %s", r.Key, want)
			}
			if p, ok := partitions[port]; ok && p != r.Partition {
				t.Errorf("port %d is in partitions %d and %d", port, p, r.Partition)
			}
			partitions[port] = r.Partition
			ids = append(ids, f.ID)
		})
	}
	slices.Sort(ids)
	if n := len(slices.Compact(ids)); n != 1500 || len(partitions) != 500 {
		t.Errorf("%d flows of %d connections", n, len(partitions))
	}
}
