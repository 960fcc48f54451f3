package model

// ProbeResult is what came of a probe, or of what is over of one that runs.
type ProbeResult struct {
	Kind    ProbeKind `json:"kind"`
	Target  string    `json:"target"`
	Seconds float64   `json:"seconds"`
	// Asked counts questions that are over, OK those with a good answer.
	Asked uint64 `json:"asked"`
	OK    uint64 `json:"ok"`
	// Rate is good answers a second.
	Rate float64 `json:"rate"`
	// Bytes are those of good answers.
	Bytes   uint64       `json:"bytes"`
	Latency ProbeLatency `json:"latency"`
	// Errors counts questions without a good answer, by kind.
	Errors map[string]uint64 `json:"errors"`
	// Note says why not all was asked that was to be.
	Note string `json:"note,omitempty"`
}

// ProbeLatency is of good answers, in seconds.
type ProbeLatency struct {
	Min  float64 `json:"min"`
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// Failed counts questions without a good answer.
func (r *ProbeResult) Failed() uint64 { return r.Asked - min(r.OK, r.Asked) }

// FailedPercent is their share.
func (r *ProbeResult) FailedPercent() float64 {
	if r.Asked == 0 {
		return 0
	}
	return 100 * float64(r.Failed()) / float64(r.Asked)
}

// ProbeTurn is the last turn of a scheduled probe.
type ProbeTurn struct {
	Probe  string
	Result *ProbeResult
}
