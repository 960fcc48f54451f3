package emulate

import (
	"math"
	"testing"
	"time"
)

var start = time.Unix(1_700_000_000, 0)

func TestScheduleIsTheSameForTheSameSeed(t *testing.T) {
	i := Impairment{Delay: 10 * time.Millisecond, Jitter: 3 * time.Millisecond, Loss: 0.1, Reorder: 0.1, Seed: 7}
	a, b, other := newSchedule(i, 0), newSchedule(i, 0), newSchedule(i, 1)
	same := true
	for n := range 1000 {
		now := start.Add(time.Duration(n) * time.Millisecond)
		at1, v1 := a.next(now, 100)
		at2, v2 := b.next(now, 100)
		if !at1.Equal(at2) || v1 != v2 {
			t.Fatalf("frame %d: %v %v and %v %v", n, at1, v1, at2, v2)
		}
		at3, v3 := other.next(now, 100)
		same = same && at1.Equal(at3) && v1 == v3
	}
	if same {
		t.Error("both directions draw the same")
	}
}

func TestScheduleLosesItsShare(t *testing.T) {
	s := newSchedule(Impairment{Loss: 0.05, Seed: 1}, 0)
	n := 0
	for range 100_000 {
		if _, v := s.next(start, 100); v == lost {
			n++
		}
	}
	// Five standard deviations of a binomial draw.
	if math.Abs(float64(n)-5000) > 5*math.Sqrt(100_000*0.05*0.95) {
		t.Errorf("lost %d of 100000 at 5%%", n)
	}
}

func TestScheduleKeepsOrderUnderJitter(t *testing.T) {
	i := Impairment{Delay: 10 * time.Millisecond, Jitter: 10 * time.Millisecond, Seed: 3}
	s := newSchedule(i, 0)
	last, spread := time.Time{}, map[time.Duration]bool{}
	for n := range 1000 {
		now := start.Add(time.Duration(n) * 30 * time.Millisecond)
		at, _ := s.next(now, 100)
		if at.Before(last) {
			t.Fatalf("frame %d arrives before the one before it", n)
		}
		if d := at.Sub(now); d < 0 || d > 20*time.Millisecond {
			t.Fatalf("frame %d takes %s", n, d)
		} else {
			spread[d.Truncate(time.Millisecond)] = true
		}
		last = at
	}
	if len(spread) < 18 {
		t.Errorf("delays cover %d of 20 ms", len(spread))
	}
}

func TestScheduleReorders(t *testing.T) {
	s := newSchedule(Impairment{Delay: 10 * time.Millisecond, Reorder: 0.1, Seed: 5}, 0)
	early := 0
	for n := range 10_000 {
		now := start.Add(time.Duration(n) * time.Millisecond)
		if at, _ := s.next(now, 100); at.Equal(now) {
			early++
		}
	}
	if early < 850 || early > 1150 {
		t.Errorf("%d of 10000 overtook at 10%%", early)
	}
}

func TestScheduleLimitsTheRate(t *testing.T) {
	s := newSchedule(Impairment{Rate: 8_000_000}, 0) // 1 ms for 1,000 bytes
	passed := 0
	var last time.Time
	for range 1000 {
		at, v := s.next(start, 1000)
		if v == pass {
			passed++
			last = at
		}
	}
	if passed != 201 || last.Sub(start) != 201*time.Millisecond {
		t.Errorf("%d passed, the last after %s; want the backlog's 200 ms and the frame on the line", passed, last.Sub(start))
	}
}

func TestScheduleEnforcesTheMTU(t *testing.T) {
	s := newSchedule(Impairment{MTU: 1500}, 0)
	if _, v := s.next(start, 1514); v != pass {
		t.Error("a frame of 1514 bytes is refused")
	}
	if _, v := s.next(start, 1515); v != tooBig {
		t.Error("a frame of 1515 bytes passes")
	}
}

func TestQueueReturnsFramesInOrder(t *testing.T) {
	q := queue{size: 1}
	for n := range 1000 {
		b := q.buffer()
		b[0] = byte(n / 10)
		q.push(start.Add(time.Duration((n*7919)%100)*time.Millisecond), b)
	}
	var last frame
	for q.len() > 0 {
		f := q.heap[0]
		if last.data != nil && f.before(last) {
			t.Fatal("out of order")
		}
		last = f
		q.pop()
	}
}

func TestSteadyLinkAllocatesNothing(t *testing.T) {
	s := newSchedule(Impairment{Delay: time.Millisecond, Jitter: time.Millisecond, Loss: 0.01, Rate: 1e9, Seed: 1}, 0)
	q := queue{size: 1514}
	for range 64 {
		q.push(start, q.buffer())
	}
	now := start
	if n := testing.AllocsPerRun(1000, func() {
		now = now.Add(time.Millisecond)
		b := q.buffer()
		if at, v := s.next(now, 1000); v == pass {
			q.push(at, b)
			q.release(q.pop())
		} else {
			q.release(b)
		}
	}); n != 0 {
		t.Errorf("%v allocations for each frame", n)
	}
}
