package engines

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// applets are BusyBox's commands that the images have.
var applets = []string{"sh", "sleep", "wget", "httpd", "nc", "cat", "ip", "timeout", "true"}

// busybox is the machine's static BusyBox.
func busybox(t testing.TB) []byte {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// rootFS is a tar of a root file system with BusyBox and a page to serve.
func rootFS(t testing.TB) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h *tar.Header, body []byte) {
		h.Size = int64(len(body))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "proc", "sys", "dev", "etc", "tmp", "run", "www"} {
		add(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(&tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, busybox(t))
	for _, name := range applets {
		add(&tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	page := bytes.Repeat([]byte("weft\n"), 20_000) // 100 kB: a few segments too many for one window
	add(&tar.Header{Name: "www/page", Typeflag: tar.TypeReg, Mode: 0o644}, page)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// ociArchive writes a tar with an OCI image layout that holds one image
// (github.com/opencontainers/image-spec/blob/main/image-layout.md).
func (e *Engine) ociArchive(t testing.TB, name string) string {
	t.Helper()
	layer, err := io.ReadAll(rootFS(t))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	file := func(name string, body []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))}); err != nil {
			t.Fatal(err)
		}
		w.Write(body)
	}
	type object = map[string]any
	blob := func(kind string, body []byte) object {
		sum := sha256.Sum256(body)
		digest := hex.EncodeToString(sum[:])
		file("blobs/sha256/"+digest, body)
		return object{"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest, "size": len(body)}
	}
	text := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	files := blob("layer.v1.tar", layer)
	config := blob("config.v1+json", text(object{"architecture": runtime.GOARCH, "os": "linux",
		"config": object{"Cmd": []string{"/bin/sleep", "1000"}, "Env": []string{"PATH=/bin"}},
		"rootfs": object{"type": "layers", "diff_ids": []any{files["digest"]}}}))
	manifest := blob("manifest.v1+json", text(object{"schemaVersion": 2, "config": config, "layers": []any{files}}))
	manifest["annotations"] = object{"io.containerd.image.name": name}
	file("index.json", text(object{"schemaVersion": 2, "manifests": []any{manifest}}))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(e.dir, "image.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
