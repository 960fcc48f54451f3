package ring

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/testreq"
)

// clock is one that a test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }

func (c *clock) pass(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.at = c.at.Add(d) }

func newClock() *clock { return &clock{at: time.Unix(1_700_000_000, 0)} }

func open(t testing.TB, dir string, bytes uint64, c *clock) *Ring {
	t.Helper()
	r, err := Open(dir, Limits{bytes, time.Hour}, c.now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// put keeps a block of a time, whose payload begins with its number.
func put(r *Ring, n int, size int, at time.Time) error {
	payload := make([]byte, size)
	order.PutUint32(payload, uint32(n))
	if _, err := r.Turn(size); err != nil {
		return err
	}
	return r.Append(Block{at.UnixNano(), at.UnixNano(), payload})
}

// numbers are those of the blocks there are.
func numbers(t testing.TB, c *Cursor) (out []int) {
	t.Helper()
	for {
		b, err := c.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, int(order.Uint32(b.Payload)))
	}
}

func onDisk(t testing.TB, dir string) (total int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	return total
}

// The oldest goes where there is no room, and the newest are there, over those who
// open the ring anew.
func TestSizeIsBounded(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	const size, limit = 300 << 10, 16 << 20
	n := 0
	for range 5 {
		r := open(t, dir, limit, c)
		for range 50 {
			c.pass(time.Second)
			if err := put(r, n, size, c.now()); err != nil {
				t.Fatal(err)
			}
			n++
			if now := onDisk(t, dir); now > limit {
				t.Fatalf("%d bytes are kept", now)
			}
		}
		got := numbers(t, r.Read(0))
		if len(got) < 40 || got[len(got)-1] != n-1 || got[0] != n-len(got) {
			t.Fatalf("kept are %v", got)
		}
		first, last, bytes := r.Span()
		if last != c.now().UnixNano() || first != c.now().Add(-time.Duration(len(got)-1)*time.Second).UnixNano() || bytes != uint64(onDisk(t, dir)) {
			t.Errorf("it says %d to %d, %d bytes of %d", first, last, bytes, onDisk(t, dir))
		}
		// From a time on: no segment before it is read.
		from := c.now().Add(-10 * time.Second)
		late := numbers(t, r.Read(from.UnixNano()))
		if len(late) < 10 || len(late) > 20 || late[len(late)-1] != n-1 {
			t.Errorf("of the last ten seconds there are %v", late)
		}
		r.Close()
	}
	r := open(t, dir, limit, c)
	if err := r.Limit(Limits{8 << 20, time.Hour}); err != nil || onDisk(t, dir) > 8<<20 {
		t.Errorf("%v, %d bytes are kept of 8 MiB", err, onDisk(t, dir))
	}
}

func TestAgeIsBounded(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	r := open(t, dir, 64<<20, c)
	for i := range 120 {
		if err := put(r, i, 100, c.now()); err != nil {
			t.Fatal(err)
		}
		c.pass(time.Minute)
		if err := r.Expire(); err != nil {
			t.Fatal(err)
		}
	}
	got := numbers(t, r.Read(0))
	if len(got) < 60 || len(got) > 66 || got[len(got)-1] != 119 {
		t.Errorf("of the last hour, and little more, are kept %v", got)
	}
	c.pass(2 * time.Hour)
	if err := r.Expire(); err != nil || onDisk(t, dir) != 0 {
		t.Errorf("%v, %d bytes are kept of what is too old", err, onDisk(t, dir))
	}
	if err := put(r, 1, 100, c.now()); err != nil {
		t.Error(err)
	}
}

// Wherever a segment is cut or changed, it is read up to there and the next ones whole.
func TestDamageEndsASegment(t *testing.T) {
	c := newClock()
	dir := t.TempDir()
	r := open(t, dir, 64<<20, c)
	for i := range 3 {
		if err := put(r, i, 40, c.now()); err != nil {
			t.Fatal(err)
		}
	}
	r.Close()
	path := filepath.Join(dir, "0000000000000001")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) {
		for _, change := range []bool{false, true} {
			b := bytes.Clone(whole[:n])
			if change {
				b = bytes.Clone(whole)
				b[n] ^= 0x55
			}
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "0000000000000001"), b, 0o600); err != nil {
				t.Fatal(err)
			}
			r := open(t, dir, 64<<20, c)
			if err := put(r, 9, 40, c.now()); err != nil {
				t.Fatal(err)
			}
			got := numbers(t, r.Read(0))
			want := max(n-headLength, 0) / (blockHeader + 40)
			if n < headLength {
				want = 0
			}
			if len(got) != want+1 || got[want] != 9 || !slices.IsSorted(got[:want]) {
				t.Fatalf("at %d (changed: %t) there are %v", n, change, got)
			}
			r.Close()
		}
	}
}

// Who reads while others write and remove sees whole blocks in order.
func TestReadWhileItIsWritten(t *testing.T) {
	c := newClock()
	r := open(t, t.TempDir(), 16<<20, c)
	done := make(chan error, 1)
	go func() {
		for i := range 2000 {
			c.pass(time.Second)
			if err := put(r, i, 100<<10, c.now()); err != nil {
				done <- err
				return
			}
			r.Expire() //nolint:errcheck // the next says it
		}
		done <- nil
	}()
	cursor := r.Read(0)
	defer cursor.Close()
	last := -1
	for writing := true; writing; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			writing = false
		default:
		}
		for _, n := range numbers(t, cursor) {
			if n <= last {
				t.Fatalf("%d comes after %d", n, last)
			}
			last = n
		}
	}
	if last != 1999 || cursor.Damaged != 0 {
		t.Errorf("the last is %d, %d segments are damaged", last, cursor.Damaged)
	}
}

// On a disk that is full the ring lives on what it has, and takes no more than there is.
func TestFullDisk(t *testing.T) {
	testreq.Need(t, testreq.Root)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=12m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	c := newClock()
	r := open(t, filepath.Join(dir, "ring"), 64<<20, c)
	for i := range 200 {
		if err := put(r, i, 200<<10, c.now()); err != nil {
			t.Fatalf("block %d: %v", i, err)
		}
	}
	if got := numbers(t, r.Read(0)); got[len(got)-1] != 199 || len(got) < 10 {
		t.Errorf("kept are %v", got)
	}
	// Others take all there is: blocks are refused, what was kept stays readable, and when
	// there is room it goes on.
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 64<<10))
	}
	f.Close()
	refused := 0
	for i := range 100 {
		if err := put(r, 1000+i, 200<<10, c.now()); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			refused++
		}
		if f, err := os.OpenFile(filler, os.O_APPEND|os.O_WRONLY, 0); err == nil { // what the ring gives up
			for err == nil {
				_, err = f.Write(make([]byte, 64<<10))
			}
			f.Close()
		}
	}
	if refused == 0 {
		t.Error("nothing was refused on a full disk")
	}
	for _, n := range numbers(t, r.Read(0)) {
		if n < 100 {
			t.Errorf("block %d is there", n)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := put(r, 5000, 200<<10, c.now()); err != nil {
		t.Error(err)
	}
	if got := numbers(t, r.Read(0)); len(got) == 0 || got[len(got)-1] != 5000 {
		t.Errorf("then there are %v", got)
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	c := newClock()
	r := open(t, t.TempDir(), 1<<30, c)
	payload := make([]byte, 1000)
	if _, err := r.Turn(len(payload)); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := r.Turn(len(payload)); err != nil {
			t.Fatal(err)
		}
		if err := r.Append(Block{1, 1, payload}); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("a block costs %v allocations", n)
	}
}

// Any bytes are a segment that ends somewhere.
func FuzzSegment(f *testing.F) {
	f.Add(append(head(), appendBlock(nil, Block{1, 2, []byte("payload")})...))
	f.Add(append(head(), 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir, c := t.TempDir(), newClock()
		if err := os.WriteFile(filepath.Join(dir, "0000000000000001"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		r := open(t, dir, 64<<20, c)
		defer r.Close()
		cursor := r.Read(0)
		defer cursor.Close()
		total := 0
		for {
			x, err := cursor.Next()
			if err != nil {
				break
			}
			total += len(x.Payload)
		}
		if total > len(b) {
			t.Errorf("%d bytes came of %d", total, len(b))
		}
	})
}
