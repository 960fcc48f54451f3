package notify

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"weft/model"
)

// Change says that an alert was raised or is over.
type Change struct {
	Time  time.Time       `json:"time"`
	Name  string          `json:"name"`
	State string          `json:"state"`
	Alert model.AlertSpec `json:"alert"`
}

// The states of a Change.
const (
	Raised  = "Raised"
	Cleared = "Cleared"
)

// history is a bounded file of changes, a line of JSON each, the oldest first. It
// is written anew when it holds twice what is kept.
type history struct {
	path string
	keep int

	mu    sync.Mutex
	list  []Change
	lines int // in the file
}

// maxLine bounds a line of the file; an alert's message is at most 8 KiB.
const maxLine = 64 << 10

// openHistory reads the file. What cannot be read of it (the end of a line that was
// being written when the machine died) is left out.
func openHistory(path string, keep int) (*history, error) {
	h := &history{path: path, keep: keep}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || path == "" {
		return h, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the history of alerts: %w", err)
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(make([]byte, 0, 4096), maxLine)
	damaged := false
	for in.Scan() {
		h.lines++
		var c Change
		if json.Unmarshal(in.Bytes(), &c) != nil || c.Name == "" {
			damaged = true
			continue
		}
		h.add(c)
	}
	if damaged || in.Err() != nil {
		h.lines = 2 * keep // the next change writes the file anew
	}
	return h, nil
}

func (h *history) add(c Change) {
	if h.list = append(h.list, c); len(h.list) > 2*h.keep {
		h.list = append([]Change(nil), h.list[len(h.list)-h.keep:]...)
	}
}

// append keeps changes.
func (h *history) append(changes []Change) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var text bytes.Buffer
	for _, c := range changes {
		h.add(c)
		if err := json.NewEncoder(&text).Encode(c); err != nil {
			return fmt.Errorf("write the history of alerts: %w", err)
		}
	}
	if h.path == "" {
		return nil
	}
	if h.lines += len(changes); h.lines > 2*h.keep {
		return h.rewrite()
	}
	f, err := os.OpenFile(h.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write the history of alerts: %w", err)
	}
	_, err = f.Write(text.Bytes())
	return errors.Join(err, f.Close())
}

// rewrite puts a file with what is kept in place of the one there is.
func (h *history) rewrite() error {
	list := h.list[max(0, len(h.list)-h.keep):]
	var text bytes.Buffer
	for _, c := range list {
		if err := json.NewEncoder(&text).Encode(c); err != nil {
			return fmt.Errorf("write the history of alerts: %w", err)
		}
	}
	f, err := os.CreateTemp(filepath.Dir(h.path), filepath.Base(h.path)+".*")
	if err != nil {
		return fmt.Errorf("write the history of alerts: %w", err)
	}
	_, err = f.Write(text.Bytes())
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), h.path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write the history of alerts: %w", err)
	}
	h.lines = len(list)
	return nil
}

// newest returns changes, the newest first.
func (h *history) newest(limit int) []Change {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := []Change{}
	for i := len(h.list) - 1; i >= 0 && len(out) < limit && len(h.list)-i <= h.keep; i-- {
		out = append(out, h.list[i])
	}
	return out
}

// raised are the alerts that the history says are not over.
func (h *history) raised() map[string]model.AlertSpec {
	out := map[string]model.AlertSpec{}
	for _, c := range h.list {
		if c.State == Raised {
			out[c.Name] = c.Alert
		} else {
			delete(out, c.Name)
		}
	}
	return out
}
