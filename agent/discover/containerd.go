package discover

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"weft/internal/cgroup"
)

// containerd is asked over its socket in gRPC for two small lists. Its client
// module would bring some hundred packages into the agent for that, so the
// few fields are read here. Field numbers are those of
// containerd/api/services/{namespaces,containers}/v1, which are frozen.
type containerd struct {
	client  *http.Client
	timeout time.Duration // of one call
}

func newContainerd(socket string, timeout time.Duration) *containerd {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &containerd{&http.Client{Transport: &http.Transport{DialContext: dialEngine(socket, timeout), Protocols: protocols}}, timeout}
}

func (d *Discover) watchContainerd(ctx context.Context, socket string) {
	c := newContainerd(socket, d.timing.timeout)
	defer c.client.CloseIdleConnections()
	const capability = "discover.containerd"
	d.keepEngine(ctx, capability, socket, func(ctx context.Context) error { return d.followContainerd(ctx, c, capability, socket) })
}

// followContainerd lists at each event, and once a minute.
func (d *Discover) followContainerd(ctx context.Context, c *containerd, capability, socket string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := c.events(ctx)
	// containerd does not say when it begins to tell of events; by then it does.
	refresh := time.NewTimer(d.timing.retry)
	defer refresh.Stop()
	for {
		began := time.Now()
		known, err := c.list(ctx)
		if err != nil {
			return err
		}
		d.setEngine(socket, known)
		d.say(capability, "yes")
		pace(ctx, time.Since(began))
		select {
		case <-ctx.Done():
			return nil
		case <-refresh.C:
			refresh.Reset(d.timing.refresh)
		case err := <-events:
			if err != nil {
				return err
			}
			d.hear() // a container that has started has its namespaces, which else makes no sound
		}
	}
}

// topics are the events that change the list, of which SubscribeRequest takes
// filters: repeated string filters = 1. Probes that run in containers make many
// others.
var topics = []string{"/containers/create", "/containers/update", "/containers/delete", "/tasks/start"}

// events yields nil for what happens, gathered while nobody listens, and at
// last an error.
func (c *containerd) events(ctx context.Context) <-chan error {
	out := make(chan error, 1)
	go func() {
		err := c.subscribe(ctx, func() {
			select {
			case out <- nil:
			default:
			}
		})
		select {
		case out <- fmt.Errorf("event stream ended: %w", err):
		case <-ctx.Done():
		}
	}()
	return out
}

// subscribe calls heard for each event until the stream breaks.
func (c *containerd) subscribe(ctx context.Context, heard func()) error {
	var message []byte
	for _, topic := range topics {
		message = protowire.AppendTag(message, 1, protowire.BytesType)
		message = protowire.AppendString(message, `topic=="`+topic+`"`)
	}
	resp, err := c.post(ctx, "/containerd.services.events.v1.Events/Subscribe", "", message)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for header := make([]byte, 5); ; {
		if _, err := io.ReadFull(resp.Body, header); err != nil {
			return err
		}
		n := int64(binary.BigEndian.Uint32(header[1:]))
		if n > maxEngineBody {
			return fmt.Errorf("event of %d bytes", n)
		}
		if _, err := io.CopyN(io.Discard, resp.Body, n); err != nil {
			return err
		}
		heard()
	}
}

// post begins a gRPC call with one message (github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
func (c *containerd) post(ctx context.Context, method, namespace string, message []byte) (*http.Response, error) {
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://containerd"+method, bytes.NewReader(frame))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	if namespace != "" {
		req.Header.Set("Containerd-Namespace", namespace)
	}
	return c.client.Do(req)
}

// call makes one unary call without arguments.
func (c *containerd) call(ctx context.Context, method, namespace string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.post(ctx, method, namespace, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := readBounded(resp.Body, "call "+method)
	if err != nil {
		return nil, err
	}
	if status := cmp.Or(resp.Trailer.Get("Grpc-Status"), resp.Header.Get("Grpc-Status")); status != "0" {
		return nil, fmt.Errorf("call %s: %s, gRPC status %s: %s", method, resp.Status, status, cmp.Or(resp.Trailer.Get("Grpc-Message"), resp.Header.Get("Grpc-Message")))
	}
	return unframe(body)
}

// unframe takes the message out of its five bytes of gRPC framing.
func unframe(body []byte) ([]byte, error) {
	if len(body) < 5 || body[0] != 0 {
		return nil, errors.New("answer is cut off, or compressed without being asked")
	}
	n := binary.BigEndian.Uint32(body[1:])
	if uint64(n) != uint64(len(body)-5) {
		return nil, fmt.Errorf("answer of %d bytes, announced as %d", len(body)-5, n)
	}
	return body[5:], nil
}

func (c *containerd) list(ctx context.Context) (map[string]container, error) {
	raw, err := c.call(ctx, "/containerd.services.namespaces.v1.Namespaces/List", "")
	if err != nil {
		return nil, err
	}
	namespaces, err := parseNamespaces(raw)
	if err != nil {
		return nil, err
	}
	out := map[string]container{}
	for _, namespace := range namespaces {
		raw, err := c.call(ctx, "/containerd.services.containers.v1.Containers/List", namespace)
		if err != nil {
			return nil, err
		}
		if err := parseContainers(raw, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// fields calls f for each length-delimited field of a message.
func fields(message []byte, f func(number protowire.Number, value []byte) error) error {
	for len(message) > 0 {
		number, typ, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, typ, message); n < 0 {
				return protowire.ParseError(n)
			}
			message = message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if err := f(number, value); err != nil {
			return err
		}
	}
	return nil
}

// parseNamespaces reads ListNamespacesResponse{repeated Namespace namespaces = 1},
// Namespace{string name = 1}.
func parseNamespaces(message []byte) ([]string, error) {
	var out []string
	err := fields(message, func(number protowire.Number, namespace []byte) error {
		if number != 1 {
			return nil
		}
		return fields(namespace, func(number protowire.Number, value []byte) error {
			if number == 1 {
				out = append(out, string(value))
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("decode namespaces: %w", err)
	}
	return out, nil
}

// parseContainers reads ListContainersResponse{repeated Container containers = 1},
// Container{string id = 1; map<string,string> labels = 2; string image = 3;
// google.protobuf.Any spec = 5}.
//
// Kubernetes and nerdctl name containers by 64 hex digits, which their cgroups
// show. Others name them as they like: these are known by their cgroup.
func parseContainers(message []byte, out map[string]container) error {
	err := fields(message, func(number protowire.Number, body []byte) error {
		if number != 1 {
			return nil
		}
		k := container{runtime: "containerd", labels: map[string]string{}}
		var spec []byte
		err := fields(body, func(number protowire.Number, value []byte) error {
			switch number {
			case 1:
				k.id = string(value)
			case 2:
				return entry(value, k.labels)
			case 3:
				k.image = string(value)
			case 5:
				spec = value
			}
			return nil
		})
		// A pod's sandbox holds no process of the user's.
		if err != nil || k.id == "" || k.labels["io.cri-containerd.kind"] == "sandbox" {
			return err
		}
		// What people call it: Kubernetes' and nerdctl's labels.
		k.name = cmp.Or(k.labels["io.kubernetes.container.name"], k.labels["nerdctl/name"])
		if pod := k.labels["io.kubernetes.pod.name"]; pod != "" && k.name != "" {
			k.name = pod + "." + k.name
		}
		if cgroup.ContainerID(k.id) {
			out[k.id] = k
			return nil
		}
		k.name = cmp.Or(k.name, k.id)
		if k.cgroup = specCgroup(spec); k.cgroup != "" {
			out[k.cgroup] = k
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("decode containers: %w", err)
	}
	return nil
}

// specCgroup reads a container's cgroup out of its OCI runtime specification,
// an Any{string type_url = 1; bytes value = 2} with JSON as its value: a path,
// or "SLICE:PREFIX:NAME" where systemd makes the cgroup. It is "" where there
// is none: that of a namespace of its own, or relative to the engine's.
func specCgroup(spec []byte) string {
	var text string
	err := fields(spec, func(number protowire.Number, value []byte) error {
		if number != 2 {
			return nil
		}
		var v struct{ Linux struct{ CgroupsPath string } }
		err := json.Unmarshal(value, &v)
		text = v.Linux.CgroupsPath
		return err
	})
	switch parts := strings.Split(text, ":"); {
	case err != nil:
		return ""
	case len(parts) == 3:
		return path.Join(slicePath(parts[0]), parts[1]+"-"+parts[2]+".scope")
	case strings.HasPrefix(text, "/") && path.Clean(text) != "/":
		return path.Clean(text)
	}
	return ""
}

// slicePath is where systemd keeps a slice: each "-" in its name is a level
// (systemd.slice(5)).
func slicePath(slice string) string {
	name, ok := strings.CutSuffix(slice, ".slice")
	if slice == "" {
		return "/system.slice"
	}
	if !ok || name == "-" {
		return "/"
	}
	out := "/"
	for i, c := range name {
		if c == '-' {
			out = path.Join(out, name[:i]+".slice")
		}
	}
	return path.Join(out, slice)
}

// entry reads one entry of a map<string,string>.
func entry(message []byte, into map[string]string) error {
	var key, value string
	err := fields(message, func(number protowire.Number, text []byte) error {
		switch number {
		case 1:
			key = string(text)
		case 2:
			value = string(text)
		}
		return nil
	})
	if err == nil {
		into[key] = value
	}
	return err
}
