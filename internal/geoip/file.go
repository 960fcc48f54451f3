package geoip

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/oschwald/maxminddb-golang/v2"
)

const (
	// maxFile is the largest file that is read: the largest there are have half of it.
	maxFile = 1 << 30
	// maxName is how much of a name is taken, in bytes.
	maxName = 100
	// maxPlaces is how many places of a file are remembered: as many as there are
	// autonomous systems.
	maxPlaces = 1 << 17
)

// file is an MMDB file in memory: one that is mapped would end the program when
// somebody writes over it.
type file struct {
	name   string
	stamp  stamp
	reader *maxminddb.Reader

	mu sync.RWMutex
	// places are by record, of which many addresses have one: a flood of addresses
	// makes it no larger than the file is.
	places map[uintptr]Place
}

// stamp tells whether a file is the same as before.
type stamp struct {
	modified time.Time
	size     int64
	info     os.FileInfo // tells a file that took another's place
}

func (s stamp) same(o stamp) bool {
	return s.info != nil && o.info != nil && s.modified.Equal(o.modified) && s.size == o.size && os.SameFile(s.info, o.info)
}

func stampOf(name string) (stamp, error) {
	info, err := os.Stat(name)
	if err != nil {
		return stamp{}, err
	}
	return stamp{info.ModTime(), info.Size(), info}, nil
}

// read reads a file. Its stamp is of before it is read: a file that changes
// meanwhile is read again.
func read(name string) (*file, error) {
	s, err := stampOf(name)
	if err != nil {
		return nil, fmt.Errorf("open an MMDB: %w", err)
	}
	if !s.info.Mode().IsRegular() || s.size > maxFile {
		return nil, fmt.Errorf("open %s as MMDB: it is no regular file of at most %d bytes", name, maxFile)
	}
	in, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open an MMDB: %w", err)
	}
	defer in.Close()
	data := make([]byte, s.size)
	if _, err := io.ReadFull(in, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	f, err := parse(name, data)
	if err != nil {
		return nil, err
	}
	f.stamp = s
	return f, nil
}

func parse(name string, data []byte) (*file, error) {
	// Strings are remembered in places, not twice.
	r, err := maxminddb.OpenBytes(data, maxminddb.DisableStringCache())
	if err != nil {
		return nil, fmt.Errorf("open %s as MMDB: %w; files are at https://dev.maxmind.com/geoip or https://db-ip.com/db/lite.php", name, err)
	}
	return &file{name: name, reader: r, places: map[uintptr]Place{}}, nil
}

type record struct {
	Country struct {
		Code string `maxminddb:"iso_code"`
	} `maxminddb:"country"`
	City struct {
		Names struct {
			English string `maxminddb:"en"`
		} `maxminddb:"names"`
	} `maxminddb:"city"`
	AS           uint32 `maxminddb:"autonomous_system_number"`
	Organization string `maxminddb:"autonomous_system_organization"`
}

func (f *file) lookup(a netip.Addr) Place {
	found := f.reader.Lookup(a)
	if !found.Found() {
		return Place{}
	}
	f.mu.RLock()
	p, ok := f.places[found.Offset()]
	f.mu.RUnlock()
	if ok {
		return p
	}
	p = decode(found)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.places) >= maxPlaces {
		clear(f.places)
	}
	f.places[found.Offset()] = p
	return p
}

func decode(found maxminddb.Result) Place {
	var r record
	if err := found.Decode(&r); err != nil {
		return Place{}
	}
	p := Place{City: name(r.City.Names.English), AS: r.AS, Organization: name(r.Organization)}
	if code := r.Country.Code; len(code) == 2 && strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" {
		p.Country = strings.Clone(code)
	}
	return p
}

// name is text that may stand on a terminal and in a table: no more than some of
// it, and nothing that controls. It holds on to nothing of the file.
func name(s string) string {
	if len(s) > maxName {
		s = s[:maxName]
	}
	return strings.Clone(strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != unicode.ReplacementChar {
			return r
		}
		return -1
	}, s)))
}
