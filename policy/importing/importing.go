package importing

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"weft/model"
)

// Format names where rules come from.
type Format string

// The formats.
const (
	Kubernetes           Format = "kubernetes"
	ClusterNetworkPolicy Format = "clusternetworkpolicy"
	Calico               Format = "calico"
	IPTables             Format = "iptables"
	AWS                  Format = "aws"
	OpenStack            Format = "openstack"
)

// Formats lists every format.
var Formats = []Format{Kubernetes, ClusterNetworkPolicy, Calico, IPTables, AWS, OpenStack}

// Limits, so that a small file cannot fill the memory.
const (
	MaxFile     = 16 << 20 // bytes of one file
	maxValues   = 1 << 20  // values of all files, aliases counted where they stand
	maxDepth    = 100      // nested values
	maxFindings = 10_000
	maxFaults   = 100
	maxRules    = 100_000 // of all policies
)

// File is one file and its content.
type File struct {
	Name string
	Data []byte
}

// Options say how the policies are to be. Their stage is Staged: they are
// reported on and not enforced until a person says so.
type Options struct {
	// Subject narrows the subject of every policy. iptables needs it: its rules
	// do not say which machine they are from.
	Subject *model.Selector
}

// Result is what became of the files.
type Result struct {
	Policies []*model.Policy `json:"policies"`
	Report   Report          `json:"report"`
}

// Import reads files of one format. The error is a Faults where the content is
// at fault, and then there are no policies.
func Import(format Format, files []File, o Options) (*Result, error) {
	r := &run{options: o, policies: []*model.Policy{}, report: Report{}, names: map[string]bool{}}
	for _, f := range files {
		if len(f.Data) > MaxFile {
			r.fault(f.Name, 1, "", "is larger than %d MiB; split it", MaxFile>>20)
		}
	}
	if len(r.faults) > 0 {
		return nil, r.faults
	}
	switch format {
	case Kubernetes, ClusterNetworkPolicy:
		r.kubernetes(r.objects(files))
	case Calico:
		r.calico(r.objects(files))
	case IPTables:
		r.iptables(files)
	case AWS:
		r.aws(files)
	case OpenStack:
		r.openstack(files)
	default:
		return nil, fmt.Errorf("format %q is none of %s", format, FormatNames())
	}
	if len(r.faults) == 0 {
		r.validate()
	}
	if len(r.faults) > 0 {
		return nil, r.faults
	}
	if len(r.policies)+len(r.report) == 0 {
		return nil, errors.New("nothing to import: no file holds an object of this format; choose another with --from")
	}
	r.sortReport(files)
	return &Result{Policies: r.policies, Report: r.report}, nil
}

// FormatNames lists the formats for a message.
func FormatNames() string {
	names := make([]string, len(Formats))
	for i, f := range Formats {
		names[i] = string(f)
	}
	return strings.Join(names, ", ")
}

// run is one import under way.
type run struct {
	options  Options
	policies []*model.Policy
	origins  []origin // of the policies
	report   Report
	faults   Faults
	names    map[string]bool
	rules    int
	values   int
}

func (r *run) fault(file string, line int, field, message string, args ...any) {
	if len(r.faults) < maxFaults {
		r.faults = append(r.faults, Fault{File: file, Line: line, Field: field, Message: fmt.Sprintf(message, args...)})
	}
}

func (r *run) found(f Finding) {
	if len(r.report) == maxFindings {
		r.fault(f.File, f.Line, f.Field, "is one finding too many: %d are in the report already; import fewer files at a time", maxFindings)
	}
	if len(r.report) < maxFindings {
		r.report = append(r.report, f)
	}
}

// sortReport puts findings in the order of files and lines.
func (r *run) sortReport(files []File) {
	place := map[string]int{}
	for i, f := range files {
		place[f.Name] = i
	}
	slices.SortStableFunc(r.report, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(place[a.File], place[b.File]), cmp.Compare(a.Line, b.Line))
	})
}

// validate holds what is handed out against the model's own rules: a fault here
// is better than a policy that apply refuses.
func (r *run) validate() {
	for i, p := range r.policies {
		var invalid model.FieldErrors
		if err := p.Validate(); errors.As(err, &invalid) {
			for _, e := range invalid {
				r.fault(r.origins[i].file, r.origins[i].line, e.Field, "cannot be written as a policy: %s", e.Message)
			}
		}
	}
	slices.SortStableFunc(r.policies, func(a, b *model.Policy) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
}
