package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"weft/internal/keyfile"
	"weft/wire/wirepb"
)

// State is the agent's directory, held by one agent at a time.
//
//	DIR/lock             locked (flock) while the agent runs; holds its pid
//	DIR/sections/NAME    a section as last received
//	DIR/sections/NAME.damaged  one that could not be read, for inspection
//
// Other parts keep their own files beside these (keys, counters).
//
// A section's file:
//
//	 0        8                       40
//	+--------+-----------------------+--------------------------+
//	| magic  | SHA-256 of what       | wirepb.Section, protobuf |
//	| 8 byte | follows, 32 bytes     |                          |
//	+--------+-----------------------+--------------------------+
type State struct {
	dir  string
	lock *os.File
	// write puts a file in place; replaced in tests.
	write func(path string, data []byte) error
}

var magic = []byte("weftLKG1")

const (
	maxSection = 64 << 20
	damaged    = ".damaged"
)

// OpenState makes the directory (0700) where there is none and locks it. The
// error names the process that holds it already.
func OpenState(dir string) (*State, error) {
	if err := os.MkdirAll(filepath.Join(dir, "sections"), 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("state directory %s is in use by process %s; stop that agent first, or give this one another directory (--state-dir)", dir, holder(f))
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// The pid is for the message above only; a full disk must not stop the agent.
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return &State{dir: dir, lock: f, write: writeFile}, nil
}

func holder(f *os.File) string {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	if pid := strings.TrimSpace(string(b[:n])); pid != "" {
		return pid
	}
	return "(unknown)"
}

// Dir is the directory.
func (s *State) Dir() string { return s.dir }

// Close gives the directory up.
func (s *State) Close() error { return s.lock.Close() }

var sectionRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// Sections reads the last-known-good sections. One that is damaged is renamed
// out of the way and returned as a fault under its name.
func (s *State) Sections() ([]*wirepb.Section, map[string]error) {
	faults := map[string]error{}
	entries, err := os.ReadDir(filepath.Join(s.dir, "sections"))
	if err != nil {
		faults["(all)"] = err
	}
	var out []*wirepb.Section
	for _, e := range entries {
		if !sectionRE.MatchString(e.Name()) {
			continue // a damaged or unfinished one
		}
		path := filepath.Join(s.dir, "sections", e.Name())
		section, err := readSection(path)
		if err == nil && section.Name != e.Name() {
			err = fmt.Errorf("it is the section %q", section.Name)
		}
		if err != nil {
			faults[e.Name()] = errors.Join(err, os.Rename(path, path+damaged))
			continue
		}
		out = append(out, section)
	}
	return out, faults
}

func readSection(path string) (*wirepb.Section, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > maxSection {
		return nil, fmt.Errorf("%d bytes long; %d at most", st.Size(), maxSection)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return decodeSection(data)
}

func decodeSection(data []byte) (*wirepb.Section, error) {
	body, ok := bytes.CutPrefix(data, magic)
	if !ok || len(body) < sha256.Size {
		return nil, errors.New("not a section file, or cut off")
	}
	sum, body := body[:sha256.Size], body[sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return nil, errors.New("checksum does not match")
	}
	var section wirepb.Section
	if err := proto.Unmarshal(body, &section); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	return &section, nil
}

func encodeSection(s *wirepb.Section) ([]byte, error) {
	body, err := proto.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	sum := sha256.Sum256(body)
	return bytes.Join([][]byte{magic, sum[:], body}, nil), nil
}

// Save keeps a section; when it returns nil the section survives a power cut.
func (s *State) Save(section *wirepb.Section) error {
	if !sectionRE.MatchString(section.Name) {
		return fmt.Errorf("keep section %q: not a section's name", section.Name)
	}
	data, err := encodeSection(section)
	if err == nil {
		err = s.write(filepath.Join(s.dir, "sections", section.Name), data)
	}
	if err != nil {
		return fmt.Errorf("keep section %s: %w", section.Name, err)
	}
	return nil
}

// Forget removes a section.
func (s *State) Forget(name string) error {
	err := os.Remove(filepath.Join(s.dir, "sections", name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget section %s: %w", name, err)
	}
	return nil
}

func writeFile(path string, data []byte) error { return keyfile.Write(path, data, 0o600) }
