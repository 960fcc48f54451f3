package samplewire

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"weft/model"
	"weft/wire/wirepb"
)

func full() *model.Sample {
	return &model.Sample{Host: "web1", Time: time.Unix(1_800_000_000, 5).UTC(), Seconds: 2.5, Uptime: 9, CPU: model.CPUUse{User: 1, Nice: 2, System: 3, Interrupts: 4, IOWait: 5, Steal: 6, Idle: 79}, Cores: []model.CPUUse{{User: 50, Idle: 50}},
		Load: model.Load{One: 1, Five: 2, Fifteen: 3}, Memory: model.MemoryUse{Total: 1, Available: 2, Free: 3, Buffers: 4, Cached: 5}, Swap: model.SwapUse{Total: 1, Used: 2, In: 3, Out: 4},
		Pressure: &model.Pressure{CPU: 1, Memory: 2, MemoryFull: 3, IO: 4, IOFull: 5}, Disks: []model.DiskUse{{Name: "sda", ReadBytes: 1, WriteBytes: 2, Reads: 3, Writes: 4, Busy: 5}},
		Filesystems: []model.FilesystemUse{{Mount: "/", Device: "d", Type: "ext4", Size: 1, Used: 2, Available: 3, Inodes: 4, InodesFree: 5}},
		Interfaces:  []model.InterfaceUse{{Name: "eth0", ReceivedBytes: 1, SentBytes: 2, ReceivedPackets: 3, SentPackets: 4, Errors: 5, Drops: 6}}, Sensors: []model.Sensor{{Name: "t", Unit: "C", Value: -5, Critical: 90}},
		Workloads: []model.WorkloadUse{{ID: "i", Kind: model.WorkloadUnit, Name: "n", CPU: 1, Memory: 2, MemoryLimit: 3, ReadBytes: 4, WriteBytes: 5, Processes: 6, Sent: 7, Received: 8}},
		Tasks:     model.Tasks{Total: 1, Running: 2, Sleeping: 3, Blocked: 4, Zombie: 5, Threads: 6, Shown: 1},
		Processes: []model.ProcessUse{{PID: 1, Parent: 2, User: "u", Name: "a\x1b[2J", Command: "c d", State: "R", CPU: 187.5, Memory: 4, Threads: 5, ReadBytes: 6, WriteBytes: 7, CPUSeconds: 8, Started: 9, Workload: "w", Sent: 10, Received: 11}}, Metered: true}
}

// Nothing is left behind on the way.
func TestRoundTrip(t *testing.T) {
	raw, err := proto.Marshal(Encode(full()))
	if err != nil {
		t.Fatal(err)
	}
	var m wirepb.Sample
	if err := proto.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full(), Decode("web1", &m)); diff != "" {
		t.Error(diff)
	}
}

// Whatever an agent sends can be kept and shown.
func FuzzDecode(f *testing.F) {
	raw, err := proto.Marshal(Encode(full()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var m wirepb.Sample
		if proto.Unmarshal(raw, &m) != nil {
			return
		}
		s := Decode("h", &m)
		if _, err := json.Marshal(s); err != nil {
			t.Error(err)
		}
		if len(s.Processes) > MaxProcesses {
			t.Errorf("%d processes", len(s.Processes))
		}
		if diff := cmp.Diff(s, Decode("h", Encode(s))); diff != "" {
			t.Errorf("what was read once is read otherwise:\n%s", diff)
		}
	})
}
