package importing

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
)

// jsonReader reads JSON values with their lines.
type jsonReader struct {
	run  *run
	file string
	data []byte
	dec  *json.Decoder
	// line is that of the byte at offset seen.
	line, seen int
}

var (
	errDeep  = errors.New("is nested too deep")
	errMany  = errors.New("holds too many values")
	errTwice = errors.New("has a key twice")
)

// parseJSON returns the values of a file; where it is no JSON a fault is added
// and ok is false.
func (r *run) parseJSON(f File) (docs []*value, ok bool) {
	j := &jsonReader{run: r, file: f.Name, data: f.Data, dec: json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(f.Data, []byte("\xef\xbb\xbf")))), line: 1}
	j.dec.UseNumber()
	for {
		v, err := j.value(0)
		if errors.Is(err, io.EOF) && len(docs) > 0 {
			return docs, true
		}
		if err != nil {
			r.fault(f.Name, j.at(), "", "is no JSON: %v; write the whole output of the command into the file", err)
			return nil, false
		}
		docs = append(docs, v)
	}
}

// at returns the line reached.
func (j *jsonReader) at() int {
	end := min(int(j.dec.InputOffset()), len(j.data))
	j.line += bytes.Count(j.data[j.seen:end], []byte("\n"))
	j.seen = end
	return j.line
}

func (j *jsonReader) value(depth int) (*value, error) {
	t, err := j.dec.Token()
	if err != nil {
		return nil, err
	}
	if j.run.values++; j.run.values > maxValues {
		return nil, errMany
	}
	if depth > maxDepth {
		return nil, errDeep
	}
	v := &value{line: j.at()}
	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			v.fields = map[string]*value{}
		} else {
			v.isList = true
		}
		for j.dec.More() {
			key := ""
			if v.fields != nil {
				k, err := j.dec.Token()
				if err != nil {
					return nil, err
				}
				key = k.(string) // the decoder lets nothing else through here
			}
			item, err := j.value(depth + 1)
			if err != nil {
				return nil, err
			}
			if v.fields == nil {
				v.list = append(v.list, item)
				continue
			}
			if v.fields[key] != nil {
				return nil, errTwice
			}
			v.fields[key] = item
			v.order = append(v.order, key)
		}
		_, err := j.dec.Token()
		return v, err
	case json.Number:
		v.scalar = number(t.String())
	default:
		v.scalar = t
	}
	return v, nil
}

func number(text string) any {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n
	}
	f, _ := strconv.ParseFloat(text, 64)
	return f
}
