package result

import (
	"bytes"
	"encoding/json"
	"math"
	"testing"
)

func TestQuantile(t *testing.T) {
	c := New("X1", "what", Ours, "s", []float64{5, 1, 4, 2, 3})
	if c.Median != 3 || c.IQR != 2 || c.Runs != 5 {
		t.Errorf("median %g, IQR %g, runs %d; want 3, 2, 5", c.Median, c.IQR, c.Runs)
	}
	if c = New("X1", "what", Ours, "s", []float64{1, 2}); c.Median != 1.5 || c.IQR != 0.5 {
		t.Errorf("median %g, IQR %g; want 1.5, 0.5", c.Median, c.IQR)
	}
	if c = New("X1", "what", Ours, "s", nil); c.Median != 0 || c.Runs != 0 {
		t.Errorf("no runs: %+v", c)
	}
}

func TestSeries(t *testing.T) {
	var s Series
	for _, v := range []float64{1, 2, 3} {
		s.Add("X1", "a", Ours, "s", v)
		s.Add("X1", "b", Ours, "s", v)
		s.Add("X1", "a", "peer", "s", 4*v)
	}
	s.Note("X1", "a", "peer", "s", "clear text")
	cells := s.Cells()
	if len(cells) != 3 {
		t.Fatalf("%d cells, want 3", len(cells))
	}
	if c := cells[1]; c.Peer != "peer" || c.Name != "a" || math.Abs(c.Ratio-0.25) > 1e-9 || c.Note != "clear text" {
		t.Errorf("second cell is %+v, want the peer's, beside ours", c)
	}
	if cells[0].Ratio != 0 || cells[2].Name != "b" {
		t.Errorf("cells are %+v", cells)
	}
}

func TestWriteIsOneLineEach(t *testing.T) {
	var out bytes.Buffer
	if err := Write(&out, New("X1", "a", Ours, "s", []float64{1}), New("X1", "b", Ours, "s", []float64{2})); err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
	if len(lines) != 2 {
		t.Fatalf("%d lines, want 2", len(lines))
	}
	var c Cell
	if err := json.Unmarshal(lines[1], &c); err != nil || c.Name != "b" || c.Median != 2 {
		t.Errorf("second line is %+v, %v", c, err)
	}
}
