package export

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"

	"weft/model"
)

// Settings is the file that says where flows are exported to.
type Settings struct {
	Exporters []Exporter `yaml:"exporters,omitempty"`
	Metrics   *Sums      `yaml:"metrics,omitempty"`
}

// Exporter is one receiver; it has one of JSONLines, IPFIX, OTLP and Kafka.
type Exporter struct {
	// Name is for logs and metrics, and for the file with how far it is.
	Name string `yaml:"name"`
	// Where narrows to flows that fulfil it, in the words of `weft flows --where`.
	Where string `yaml:"where,omitempty"`
	// Reports is Counted, which is each connection once, or All, which is what both
	// ends report. Counted unless given.
	Reports string `yaml:"reports,omitempty"`

	JSONLines *JSONLines `yaml:"jsonLines,omitempty"`
	IPFIX     *IPFIX     `yaml:"ipfix,omitempty"`
	OTLP      *OTLP      `yaml:"otlp,omitempty"`
	Kafka     *Kafka     `yaml:"kafka,omitempty"`

	selector *model.Selector
}

// Which reports an exporter sends.
const (
	ReportsCounted = "Counted"
	ReportsAll     = "All"
)

// maxExporters bounds how many follow the store.
const maxExporters = 16

// kind is a way of exporting: what of an Exporter is set.
type kind interface {
	check() error
	sender(Deps) (sender, error)
}

func (x *Exporter) kinds() (out []kind, names []string) {
	if x.JSONLines != nil {
		out, names = append(out, x.JSONLines), append(names, "jsonLines")
	}
	if x.IPFIX != nil {
		out, names = append(out, x.IPFIX), append(names, "ipfix")
	}
	if x.OTLP != nil {
		out, names = append(out, x.OTLP), append(names, "otlp")
	}
	if x.Kafka != nil {
		out, names = append(out, x.Kafka), append(names, "kafka")
	}
	return out, names
}

func (x *Exporter) sender(deps Deps) (sender, error) {
	list, _ := x.kinds()
	if len(list) != 1 {
		return nil, fmt.Errorf("exporter %s: give one of jsonLines, ipfix, otlp, kafka", x.Name)
	}
	s, err := list[0].sender(deps)
	if err != nil {
		return nil, fmt.Errorf("exporter %s: %w", x.Name, err)
	}
	return s, nil
}

// ReadSettings reads the file and checks all of it. Errors name file, line and
// field.
func ReadSettings(file string) (*Settings, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read where flows are exported to: %w", err)
	}
	var s Settings
	if err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		text := strings.TrimPrefix(strings.TrimSpace(yaml.FormatError(err, false, false)), "[")
		return nil, fmt.Errorf("%s:%s", file, strings.Replace(text, "] ", ": ", 1))
	}
	var errs []error
	fault := func(path string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", place(file, data, path), path, err))
		}
	}
	if len(s.Exporters) > maxExporters {
		fault("exporters", fmt.Errorf("%d exporters; %d at most", len(s.Exporters), maxExporters))
	}
	for i := range s.Exporters {
		x := &s.Exporters[i]
		at := fmt.Sprintf("exporters[%d]", i)
		fault(at+".name", model.CheckName(x.Name))
		if j := slices.IndexFunc(s.Exporters[:i], func(o Exporter) bool { return o.Name == x.Name }); j >= 0 {
			fault(at+".name", fmt.Errorf("%q is the name of exporters[%d] too", x.Name, j))
		}
		if x.Reports != "" && x.Reports != ReportsCounted && x.Reports != ReportsAll {
			fault(at+".reports", fmt.Errorf("%q is none of %s, %s", x.Reports, ReportsCounted, ReportsAll))
		}
		x.selector, err = where(x.Where)
		fault(at+".where", err)
		list, names := x.kinds()
		if len(list) != 1 {
			fault(at, fmt.Errorf("give one of jsonLines, ipfix, otlp, kafka; here are %d", len(list)))
		}
		for n, k := range list {
			fault(at+"."+names[n], k.check())
		}
	}
	if s.Metrics != nil {
		fault("metrics", s.Metrics.check())
	}
	if len(s.Exporters) == 0 && s.Metrics == nil && len(errs) == 0 {
		fault("exporters", errors.New("none is there, nor metrics"))
	}
	return &s, errors.Join(errs...)
}

// where reads a filter; none is nil.
func where(text string) (*model.Selector, error) {
	if text == "" {
		return nil, nil
	}
	s, err := model.ParseSelector(text)
	if err != nil {
		return nil, err
	}
	return &s, nil
}

// place is the file, and the line of what is there of the path.
func place(file string, data []byte, path string) string {
	tree, err := parser.ParseBytes(data, 0)
	if err != nil {
		return file
	}
	for ; path != ""; path = path[:max(strings.LastIndexAny(path, ".["), 0)] {
		p, err := yaml.PathString("$." + path)
		if err != nil {
			continue
		}
		if node, err := p.FilterFile(tree); err == nil && node != nil && node.GetToken() != nil {
			return fmt.Sprintf("%s:%d", file, node.GetToken().Position.Line)
		}
	}
	return file
}
