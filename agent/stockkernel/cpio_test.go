package stockkernel

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// archive writes an initramfs: cpio in its "newc" form, as
// Documentation/driver-api/early-userspace/buffer-format.rst has it.
type archive struct {
	w    *bufio.Writer
	dirs map[string]bool
	n    int
	err  error
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriter(w), dirs: map[string]bool{".": true, "/": true}}
}

func (a *archive) entry(name string, mode, size int) {
	a.n++
	name = strings.TrimPrefix(name, "/")
	_, err := fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.n, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	a.keep(err)
	a.pad(110 + len(name) + 1)
}

func (a *archive) keep(err error) {
	if a.err == nil {
		a.err = err
	}
}

func (a *archive) pad(n int) {
	for ; n%4 != 0; n++ {
		a.keep(a.w.WriteByte(0))
	}
}

func (a *archive) dir(name string) {
	if name = path.Clean(name); a.dirs[name] {
		return
	}
	a.dir(path.Dir(name))
	a.dirs[name] = true
	a.entry(name, 0o40755, 0)
}

func (a *archive) bytes(name string, mode int, b []byte) {
	a.dir(path.Dir(name))
	a.entry(name, 0o100000|mode, len(b))
	_, err := a.w.Write(b)
	a.keep(err)
	a.pad(len(b))
}

func (a *archive) file(name, source string) {
	b, err := os.ReadFile(source)
	a.keep(err)
	a.bytes(name, 0o755, b)
}

func (a *archive) link(name, target string) {
	a.dir(path.Dir(name))
	a.entry(name, 0o120777, len(target))
	_, err := a.w.WriteString(target)
	a.keep(err)
	a.pad(len(target))
}

func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, 0)
	a.keep(a.w.Flush())
	return a.err
}
