package flow

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"weft/wire/wirepb"
)

// spool is batches on disk, one a file, until they are acknowledged.
type spool struct {
	dir     string
	room    int64
	account *account
	files   []file // by epoch and number; the newest stays, acknowledged or not
	size    int64
	lost    uint64 // records of this epoch
	damaged int    // files that could not be read
}

type file struct {
	epoch, number uint64
	size          int64
	records       int
	acknowledged  bool
}

func (f *file) name() string { return fmt.Sprintf("%016x-%016x.batch", f.epoch, f.number) }

func (f *file) compare(epoch, number uint64) int {
	return cmp.Or(cmp.Compare(f.epoch, epoch), cmp.Compare(f.number, number))
}

func openSpool(dir string, room int64) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a directory for flow records: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the directory of flow records: %w", err)
	}
	s := &spool{dir: dir, room: room}
	for _, e := range entries {
		var f file
		path := filepath.Join(dir, e.Name())
		if strings.HasSuffix(e.Name(), ".new") { // of a process that was killed
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("remove half a batch of flow records: %w", err)
			}
			continue
		}
		if _, err := fmt.Sscanf(e.Name(), "%016x-%016x.batch", &f.epoch, &f.number); err != nil {
			continue // not ours
		}
		b, size, err := readBatch(path)
		if err != nil || b.Epoch != f.epoch || b.Number != f.number {
			s.damaged++
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("remove a damaged batch of flow records: %w", err)
			}
			continue
		}
		f.size, f.records = size, int(b.Records)
		s.files, s.size = append(s.files, f), s.size+size
	}
	slices.SortFunc(s.files, func(a, b file) int { return a.compare(b.epoch, b.number) })
	return s, nil
}

// continueAs goes on with an account, or begins one where there is none.
func (s *spool) continueAs(a *account) {
	s.account = a
	if a.Epoch == 0 {
		a.Epoch = max(uint64(time.Now().UnixNano()), 1)
		if n := len(s.files); n > 0 { // also where the clock was set back
			a.Epoch = max(a.Epoch, s.files[n-1].epoch+1)
		}
	}
	s.lost = a.Lost
}

// add numbers a batch and writes it. Where there is no room the oldest go.
func (s *spool) add(b *wirepb.FlowBatch) (*wirepb.FlowBatch, error) {
	b.Epoch, b.Number = s.account.Epoch, s.account.Number+1
	raw, err := proto.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("write flow records: %w", err)
	}
	need := int64(len(raw)) + 64
	for len(s.files) > 0 && s.size+need > s.room {
		if err := s.drop(0); err != nil {
			return nil, err
		}
	}
	if b.Lost = s.lost; b.Lost > 0 {
		if raw, err = proto.Marshal(b); err != nil {
			return nil, fmt.Errorf("write flow records: %w", err)
		}
	}
	f := file{epoch: b.Epoch, number: b.Number, records: int(b.Records), size: int64(len(raw)) + 4}
	raw = binary.BigEndian.AppendUint32(raw, crc32.Checksum(raw, castagnoli))
	path := filepath.Join(s.dir, f.name())
	if err := os.WriteFile(path+".new", raw, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("write flow records: %w", err), os.Remove(path+".new"))
	}
	if err := os.Rename(path+".new", path); err != nil {
		return nil, fmt.Errorf("write flow records: %w", err)
	}
	s.files, s.size = append(s.files, f), s.size+f.size
	s.tidy()
	return b, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func readBatch(path string) (*wirepb.FlowBatch, int64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, 0, fmt.Errorf("read flow records: %w", err)
	}
	if len(raw) < 4 || binary.BigEndian.Uint32(raw[len(raw)-4:]) != crc32.Checksum(raw[:len(raw)-4], castagnoli) {
		return nil, 0, fmt.Errorf("read flow records: %s is damaged", path)
	}
	var b wirepb.FlowBatch
	if err := proto.Unmarshal(raw[:len(raw)-4], &b); err != nil {
		return nil, 0, fmt.Errorf("read flow records: %s: %w", path, err)
	}
	return &b, int64(len(raw)), nil
}

// drop deletes a batch; its records are lost unless it was acknowledged.
func (s *spool) drop(i int) error {
	f := &s.files[i]
	if err := os.Remove(filepath.Join(s.dir, f.name())); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove flow records: %w", err)
	}
	if !f.acknowledged {
		s.lost += uint64(f.records)
	}
	s.size -= f.size
	s.files = slices.Delete(s.files, i, i+1)
	return nil
}

func (s *spool) newest() *wirepb.FlowBatch {
	if len(s.files) == 0 {
		return nil
	}
	b, _, err := readBatch(filepath.Join(s.dir, s.files[len(s.files)-1].name()))
	if err != nil {
		return nil
	}
	return b
}

// next returns the first batch after one that is not acknowledged.
func (s *spool) next(after *wirepb.FlowAck) (*wirepb.FlowBatch, error) {
	for i := range s.files {
		f := &s.files[i]
		if f.acknowledged || after != nil && f.compare(after.Epoch, after.Number) <= 0 {
			continue
		}
		b, _, err := readBatch(filepath.Join(s.dir, f.name()))
		if err == nil {
			return b, nil
		}
		return nil, errors.Join(err, s.drop(i))
	}
	return nil, nil
}

// acknowledge forgets the batches of an epoch up to a number.
func (s *spool) acknowledge(a *wirepb.FlowAck) {
	for i := range s.files {
		if f := &s.files[i]; f.epoch == a.GetEpoch() && f.number <= a.GetNumber() {
			f.acknowledged = true
		}
	}
	s.tidy()
}

// tidy deletes what is acknowledged, but for the newest, which tells a later
// process how far the marks should be.
func (s *spool) tidy() {
	for i := 0; i < len(s.files)-1; {
		if !s.files[i].acknowledged || s.drop(i) != nil {
			i++
		}
	}
}
