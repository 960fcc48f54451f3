package export

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// cursor is how far an exporter is, in a file of its own.
type cursor struct {
	file   string // empty: in memory
	after  uint64
	noted  bool // after is what the file says
	placed bool // it is a place in the store
}

type cursorFile struct {
	After uint64 `json:"after"`
}

// openCursor reads the file.
func openCursor(dir, name string) (c cursor, err error) {
	if dir == "" {
		return c, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return c, fmt.Errorf("make the directory of exports: %w", err)
	}
	c.file = filepath.Join(dir, name+".json")
	data, err := os.ReadFile(c.file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read how far an export is: %w", err)
	}
	var known cursorFile
	if err := json.Unmarshal(data, &known); err != nil {
		return c, fmt.Errorf("read how far an export is: %s: %w; remove the file to begin with what comes", c.file, err)
	}
	c.after, c.noted = known.After, true
	return c, nil
}

// place finds the cursor's place in a store whose flows before the exporter's start
// end with last. An exporter without a file begins with what comes. Where the store
// is not as far as the file, it is another store, or an older copy, and all that it
// has from now on is new.
func (c *cursor) place(last uint64) error {
	if !c.noted {
		if err := c.move(last); err != nil {
			return err
		}
	}
	c.after, c.placed = min(c.after, last), true
	return nil
}

// move keeps that all up to an id is sent.
func (c *cursor) move(upto uint64) error {
	if c.file != "" {
		if err := c.write(upto); err != nil {
			return fmt.Errorf("keep how far an export is: %w", err)
		}
	}
	c.after = upto
	return nil
}

func (c *cursor) write(upto uint64) error {
	data, err := json.Marshal(cursorFile{upto})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(c.file+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(c.file+".new", c.file)
}
