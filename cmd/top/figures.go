package top

import (
	"fmt"
	"math"
	"time"
)

// size writes bytes in at most five columns: 999B, 1.2K, 120M.
func size(n float64) string {
	const units = "BKMGTPE"
	if n < 0 || math.IsNaN(n) {
		n = 0
	}
	i := 0
	for n >= 1000 && i < len(units)-1 {
		n, i = n/1024, i+1
	}
	if i == 0 || n >= 9.95 {
		return fmt.Sprintf("%.0f%c", n, units[i])
	}
	return fmt.Sprintf("%.1f%c", n, units[i])
}

// flow writes bytes a second; nothing is "-", so that what moves stands out.
func flow(n float64) string {
	if n < 0.5 {
		return "-"
	}
	return size(n)
}

// percent writes in at most five columns.
func percent(v float64) string {
	if v < 0 || math.IsNaN(v) {
		v = 0
	}
	if v >= 999.95 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// span writes a time in its two largest units.
func span(seconds float64) string {
	d := time.Duration(max(0, min(seconds, 1e9)) * float64(time.Second))
	s := int(d / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
}

// ago writes a time in its largest unit of which there are two.
func ago(seconds float64) string {
	switch {
	case seconds < 120:
		return fmt.Sprintf("%.0fs", seconds)
	case seconds < 2*3600:
		return fmt.Sprintf("%.0fm", seconds/60)
	case seconds < 2*86400:
		return fmt.Sprintf("%.0fh", seconds/3600)
	}
	return fmt.Sprintf("%.0fd", seconds/86400)
}

// processorTime writes as top(1) does: minutes, seconds and hundredths.
func processorTime(seconds float64) string {
	m := int(seconds) / 60
	if m >= 600 {
		return fmt.Sprintf("%dh%02dm", m/60, m%60)
	}
	return fmt.Sprintf("%d:%05.2f", m, seconds-float64(m*60))
}

// level is how much a percentage matters.
func level(v, warn, crit float64) style {
	switch {
	case v >= crit:
		return critical
	case v >= warn:
		return warning
	}
	return plain
}

// share is a part in percent.
func share(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}
