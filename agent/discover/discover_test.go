package discover

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"weft/internal/cgroup"
	"weft/model"
)

const awsDocument = `{"instanceId":"i-1","region":"eu-central-1","availabilityZone":"eu-central-1a","accountId":"1"}`

// clouds are metadata services as their documentation describes them.
var clouds = map[string]struct {
	serve func(w http.ResponseWriter, r *http.Request)
	want  map[string]string
}{
	"aws": {func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/latest/api/token" && r.Method == http.MethodPut && r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") != "" {
			fmt.Fprint(w, "tok")
			return
		}
		answer, ok := map[string]string{
			"/latest/dynamic/instance-identity/document":             awsDocument,
			"/latest/meta-data/mac":                                  "0a:00",
			"/latest/meta-data/network/interfaces/macs/0a:00/vpc-id": "vpc-9",
			"/latest/meta-data/tags/instance":                        "app\nteam/cost\nodd key",
			"/latest/meta-data/tags/instance/app":                    "web",
			"/latest/meta-data/tags/instance/team/cost":              "a b",
			"/latest/meta-data/tags/instance/odd key":                "x",
		}[r.URL.Path]
		if !ok || r.Header.Get("X-aws-ec2-metadata-token") != "tok" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, answer)
	}, map[string]string{"cloud.provider": "aws", "cloud.region": "eu-central-1", "cloud.zone": "eu-central-1a", "cloud.instance-id": "i-1",
		"cloud.network": "vpc-9", "cloud.tag/app": "web", "cloud.tag/team/cost": "a_b", "cloud.tag/odd_key": "x"}},
	"gcp": {func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Metadata-Flavor") != "Google" || r.URL.Path != "/computeMetadata/v1/instance/" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Metadata-Flavor", "Google")
		fmt.Fprint(w, `{"id":5551234567890123456,"zone":"projects/1/zones/europe-west3-b","tags":["http-server"],
			"attributes":{"app":"web","ssh-keys":"k","startup-script":"rm"},"networkInterfaces":[{"network":"projects/1/networks/prod"}]}`)
	}, map[string]string{"cloud.provider": "gcp", "cloud.region": "europe-west3", "cloud.zone": "europe-west3-b", "cloud.instance-id": "5551234567890123456",
		"cloud.network": "prod", "cloud.tag/http-server": "", "cloud.tag/app": "web"}},
	"azure": {func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Metadata") != "true" || r.URL.Path != "/metadata/instance" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		fmt.Fprint(w, `{"compute":{"location":"westeurope","zone":"2","vmId":"u-1","tagsList":[{"name":"app","value":"web"}]},
			"network":{"interface":[{"ipv4":{"subnet":[{"address":"10.1.0.0","prefix":"24"}]}}]}}`)
	}, map[string]string{"cloud.provider": "azure", "cloud.region": "westeurope", "cloud.zone": "2", "cloud.instance-id": "u-1", "cloud.network": "10.1.0.0/24", "cloud.tag/app": "web"}},
}

func TestEveryCloudIsKnown(t *testing.T) {
	for name, cloud := range clouds {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(cloud.serve))
			defer server.Close()
			got, err := newMetadata(server.URL).ask(t.Context())
			if err != nil || !maps.Equal(got, cloud.want) {
				t.Errorf("got %v, %v\nwant %v", got, err, cloud.want)
			}
		})
	}
}

// The inventory is complete when the cloud has answered, and engines have or cannot.
func TestInventoryIsCompleteOnceAllHaveSpoken(t *testing.T) {
	answer := make(chan struct{})
	cloud := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-answer
		clouds["azure"].serve(w, r)
	}))
	defer cloud.Close()
	docker := unixServer(t, "docker.sock", &http.Server{Handler: http.HandlerFunc(healthyDocker)})
	d := newTestDiscover(t, Config{MetadataURL: cloud.URL, LabelsDir: "-", Resync: time.Hour, DockerSockets: []string{docker, "/nowhere/docker.sock"}, ContainerdSocket: "/nowhere/containerd.sock"})
	ctx, cancel := context.WithCancel(t.Context())
	done, ready := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); d.Run(ctx, func() { close(ready) }) }()
	defer func() { cancel(); <-done }()
	<-ready
	waitEngine(t, d, strings.Repeat("0a", 32), func(c container) bool { return c.name == "web" })
	select {
	case <-d.Complete():
		t.Error("complete without the cloud")
	default:
	}
	close(answer)
	<-d.Complete()
	if facts, _ := d.Snapshot(); facts.Labels["cloud.provider"] != "azure" {
		t.Errorf("complete: %v", facts)
	}
}

func TestNoCloudIsAnErrorAndNoRedirectIsFollowed(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(clouds["azure"].serve))
	defer elsewhere.Close()
	for what, handler := range map[string]http.HandlerFunc{
		"not found": http.NotFound,
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+r.URL.String(), http.StatusFound)
		},
		"page":  func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>welcome to the hotel</html>") },
		"empty": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "{}") },
	} {
		server := httptest.NewServer(handler)
		if got, err := newMetadata(server.URL).ask(t.Context()); err == nil {
			t.Errorf("%s: taken for a cloud: %v", what, got)
		}
		server.Close()
	}
}

// unixServer serves on a socket until the test ends.
func unixServer(t *testing.T, name string, server *http.Server) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weft") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, name)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(l)
	t.Cleanup(func() { server.Close(); os.RemoveAll(dir) })
	return socket
}

func newTestDiscover(t *testing.T, cfg Config) *Discover {
	t.Helper()
	cfg.CgroupRoot = t.TempDir()
	if err := os.WriteFile(filepath.Join(cfg.CgroupRoot, "cgroup.procs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := New(cfg, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func waitEngine(t *testing.T, d *Discover, id string, ok func(container) bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok(d.engineContainer(id, "")) {
			return
		}
	}
	t.Fatalf("container %.12s is %+v", id, d.engineContainer(id, ""))
}

func TestDockerIsListedAndFollowed(t *testing.T) {
	id := strings.Repeat("0a", 32)
	names := make(chan string, 2)
	events := make(chan string)
	names <- "/web"
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containers/json", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode([]map[string]any{{"Id": id, "Names": []string{<-names}, "Image": "nginx:1", "Labels": map[string]string{"app": "web"}}, {"Id": "../x"}})
	})
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		for {
			select {
			case e := <-events:
				fmt.Fprintln(w, e)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	d := newTestDiscover(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	socket := unixServer(t, "docker.sock", &http.Server{Handler: mux})
	go func() { defer close(done); d.watchDocker(ctx, socket) }()
	defer func() { cancel(); <-done }()
	waitEngine(t, d, id, func(c container) bool {
		return c.name == "web" && c.image == "nginx:1" && c.labels["app"] == "web" && c.runtime == "docker"
	})
	events <- `{"Type":"container","Action":"exec_start: ls"}` // changes nothing: no list is asked for
	names <- "/renamed"
	events <- `{"Type":"container","Action":"rename"}`
	waitEngine(t, d, id, func(c container) bool { return c.name == "renamed" })
}

func field(number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
}

func label(key, value string) []byte {
	return field(2, append(field(1, []byte(key)), field(2, []byte(value))...))
}

func TestContainerdIsAskedInGRPC(t *testing.T) {
	id := strings.Repeat("1b", 32)
	body := append(field(1, []byte(id)), label("io.kubernetes.pod.name", "shop-1")...)
	body = append(body, label("io.kubernetes.container.name", "web")...)
	body = append(body, field(3, []byte("docker.io/nginx:1"))...)
	answers := map[string][]byte{
		"/containerd.services.namespaces.v1.Namespaces/List ":       field(1, field(1, []byte("k8s.io"))),
		"/containerd.services.containers.v1.Containers/List k8s.io": field(1, body),
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.Path+" "+r.Header.Get("Containerd-Namespace")]
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		if !ok || r.Header.Get("Te") != "trailers" {
			w.Header().Set("Grpc-Status", "12")
			return
		}
		frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(answer)))
		w.Write(append(frame, answer...))
		w.Header().Set("Grpc-Status", "0")
	})
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	c := newContainerd(unixServer(t, "containerd.sock", &http.Server{Handler: handler, Protocols: &protocols}), time.Second)
	defer c.client.CloseIdleConnections()
	got, err := c.list(t.Context())
	if k := got[id]; err != nil || len(got) != 1 || k.name != "shop-1.web" || k.image != "docker.io/nginx:1" || k.runtime != "containerd" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// The forms in which container managers name cgroups, by runtime. Monitors and
// other helpers are none.
func TestContainerOfCgroupPath(t *testing.T) {
	id, pod := strings.Repeat("c3", 32), strings.Repeat("9d", 32)
	const uid = "7d3a3b5c-0f4e-4b7e-9f55-2f6f6b1c0d11"
	systemdUID := strings.ReplaceAll(uid, "-", "_")
	for path, want := range map[string]string{
		// Docker: systemd's driver, cgroupfs, rootless, another parent.
		"/system.slice/docker-" + id + ".scope": "docker",
		"/docker/" + id:                         "docker",
		"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-" + id + ".scope": "docker",
		"/ci.slice/docker-" + id + ".scope":                                                "docker",
		"/system.slice/docker.service":                                                     "",
		"/system.slice/docker-" + id[:12] + ".scope":                                       "",
		// Podman: systemd, cgroupfs, pods, rootless, run by a unit (Quadlet).
		"/machine.slice/libpod-" + id + ".scope":                                           "podman",
		"/libpod_parent/libpod-" + id:                                                      "podman",
		"/libpod_parent/" + id:                                                             "podman",
		"/libpod_parent/" + pod + "/libpod-" + id:                                          "podman",
		"/machine.slice/machine-libpod_pod_" + pod + ".slice/libpod-" + id + ".scope":      "podman",
		"/machine.slice/machine-libpod_pod_" + pod + ".slice":                              "",
		"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id + ".scope": "podman",
		"/system.slice/web.service/libpod-payload-" + id:                                   "podman",
		"/system.slice/web.service":                                                        "",
		"/machine.slice/libpod-conmon-" + id + ".scope":                                    "",
		"/libpod_parent/conmon":                                                            "",
		"/libpod_parent/libpod-" + id + "/container":                                       "",
		// Kubernetes: containerd and CRI-O, systemd's driver and cgroupfs.
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + systemdUID + ".slice/cri-containerd-" + id + ".scope": "containerd",
		"/kubepods.slice/kubepods-pod" + systemdUID + ".slice/crio-" + id + ".scope":                                              "cri-o",
		"/kubepods.slice/kubepods-pod" + systemdUID + ".slice/crio-conmon-" + id + ".scope":                                       "",
		"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + systemdUID + ".slice":                               "",
		"/kubepods/burstable/pod" + uid + "/" + id:                                                                                "containerd",
		"/kubepods/pod" + uid + "/crio-" + id:                                                                                     "cri-o",
		"/kubepods/besteffort/pod" + uid:                                                                                          "",
		"/kubelet/kubepods/pod" + uid + "/" + id:                                                                                  "containerd", // kind: a node in a container
		"/system.slice/containerd.service":                                                                                        "",
		"/system.slice/nerdctl-" + id + ".scope":                                                                                  "containerd",
		"/default/" + id:                                                                                                          "containerd", // nerdctl with cgroupfs
		"/system.slice/kubelet.service":                                                                                           "",
		// Others: these are found by their network namespace.
		"/lxc.payload.web":                          "",
		"/machine.slice/machine-web.scope":          "",
		"/system.slice/nginx.service":               "",
		"/" + strings.ToUpper(id):                   "",
		"/docker/" + id + id:                        "",
		"/system.slice/docker-" + id + ".scope.bak": "",
	} {
		runtime, got := cgroup.Container(path)
		if runtime != want || (got != "") != (want != "") || got != "" && got != id {
			t.Errorf("%s: runtime %q, id %.12s, want %q", path, runtime, got, want)
		}
	}
}

func TestCgroupOfContainerdSpec(t *testing.T) {
	for text, want := range map[string]string{
		"/default/web":         "/default/web",
		"/a/../default//web/":  "/default/web",
		"system.slice:ctr:web": "/system.slice/ctr-web.scope",
		":ctr:web":             "/system.slice/ctr-web.scope",
		"a-b-c.slice:ctr:web":  "/a.slice/a-b.slice/a-b-c.slice/ctr-web.scope",
		"-.slice:ctr:web":      "/ctr-web.scope",
		"":                     "",
		"/":                    "",
		"../..":                "",
		"default/web":          "", // relative to the engine's own
	} {
		spec, err := json.Marshal(map[string]any{"linux": map[string]any{"cgroupsPath": text}})
		if err != nil {
			t.Fatal(err)
		}
		if got := specCgroup(append(field(1, []byte("types.containerd.io/opencontainers/runtime-spec/1/Spec")), field(2, spec)...)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	for _, garbage := range []string{"", "{", `{"linux":7}`, `{"linux":{"cgroupsPath":[]}}`} {
		if got := specCgroup(field(2, []byte(garbage))); got != "" {
			t.Errorf("%q: %q", garbage, got)
		}
	}
}

func TestLabelFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"10-base": "app=web # the shop\n\ntier = front\n", "20-more": "app=shop\nnonsense\nbad key=1\nx=a b\n", ".hidden": "no=1", "old~": "no=2"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	labels, faults := readLabelsDir(dir)
	if !maps.Equal(labels, map[string]string{"app": "shop", "tier": "front"}) {
		t.Errorf("labels: %v", labels)
	}
	if len(faults) != 3 || !strings.Contains(faults[0], "20-more:2: want key=value") || !strings.Contains(faults[2], "20-more:4: label value") {
		t.Errorf("faults: %q", faults)
	}
}

func checkLabels(t *testing.T, labels map[string]string) {
	t.Helper()
	for k, v := range labels {
		if model.CheckLabelKey(k) != nil || model.CheckLabelValue(v) != nil {
			t.Errorf("label %q=%q is none", k, v)
		}
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add([]byte(awsDocument))
	f.Add([]byte(`{"zone":"/","id":"x","attributes":{"a":"b"}}`))
	f.Add([]byte(`{"compute":{"vmId":"1","location":"x","tagsList":[{"name":"ü","value":"ü"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, parse := range []func([]byte) (cloudLabels, error){parseAWS, parseGCP, parseAzure} {
			if labels, err := parse(data); err == nil {
				checkLabels(t, labels)
			}
		}
	})
}

func FuzzLabels(f *testing.F) {
	f.Add("app=web,tier=front")
	f.Add("=,a=\x00,b")
	f.Fuzz(func(t *testing.T, text string) {
		checkLabels(t, parseLabels(text))
		labels, _ := parseLabelFile("f", text)
		checkLabels(t, labels)
	})
}

func FuzzEngines(f *testing.F) {
	f.Add([]byte(`[{"Id":"x","Names":[]}]`))
	f.Add(field(1, append(field(1, []byte("x")), label("a", "b")...)))
	f.Add([]byte{0, 0, 0, 0, 1, 9})
	f.Fuzz(func(t *testing.T, data []byte) {
		parseDocker(data, "docker")
		parseContainers(data, map[string]container{})
		parseNamespaces(data)
		unframe(data)
		parseVersion(data)
		specCgroup(data)
		tellsOfChange(data)
	})
}

func FuzzContainerOf(f *testing.F) {
	f.Add("/docker/x")
	f.Fuzz(func(t *testing.T, path string) {
		if _, id := cgroup.Container(path); id != "" && !cgroup.ContainerID(id) {
			t.Errorf("%q: id %q", path, id)
		}
	})
}
