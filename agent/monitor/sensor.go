package monitor

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"time"

	"weft/model"
)

// maxSensors bounds how many are read, and sensorsEvery how often it is looked
// whether there are others.
const (
	maxSensors   = 128
	sensorsEvery = time.Minute
)

// sensors reads /sys/class/hwmon: temperatures and fans.
type sensors struct {
	in     *reader
	sys    string
	looked time.Time
	all    []sensor
}

type sensor struct {
	model.Sensor
	file  string
	scale float64
}

func (s *sensors) sample(out *model.Sample, now time.Time) {
	if s.looked.IsZero() || now.Sub(s.looked) >= sensorsEvery {
		s.looked = now
		s.find()
	}
	out.Sensors = out.Sensors[:0]
	for i := range s.all {
		if b, err := s.in.file(s.all[i].file); err == nil {
			x := s.all[i].Sensor
			x.Value = signed(b) * s.all[i].scale
			out.Sensors = append(out.Sensors, x)
		}
	}
}

func (s *sensors) find() {
	s.all = s.all[:0]
	chips, _ := filepath.Glob(filepath.Join(s.sys, "class/hwmon/hwmon*"))
	for _, chip := range chips {
		name := s.text(chip + "/name")
		files, _ := filepath.Glob(chip + "/*_input")
		for _, file := range files {
			stem := strings.TrimSuffix(file, "_input")
			x := sensor{file: file, scale: 1}
			switch base := filepath.Base(stem); {
			case strings.HasPrefix(base, "temp"):
				x.Unit, x.scale = "C", 0.001
			case strings.HasPrefix(base, "fan"):
				x.Unit = "rpm"
			default:
				continue
			}
			label := s.text(stem + "_label")
			if label == "" {
				label = filepath.Base(stem)
			}
			x.Name = name + " " + label
			if b, err := s.in.file(stem + "_crit"); err == nil {
				x.Critical = signed(b) * x.scale
			}
			if len(s.all) == maxSensors {
				return
			}
			s.all = append(s.all, x)
		}
	}
}

func (s *sensors) text(path string) string {
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	b, err := s.in.file(path)
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b[:min(len(b), 64)]))
}

func signed(b []byte) float64 {
	if rest, minus := bytes.CutPrefix(b, []byte("-")); minus {
		n, _ := number(rest)
		return -float64(n)
	}
	n, _ := number(b)
	return float64(n)
}
