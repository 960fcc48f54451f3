// Command ociimage writes an OCI image archive of one static program, without
// any container engine:
//
//	ociimage -name weft-agent:1.0 -o agent.oci.tar ROOT-DIR ENTRYPOINT [ARG...]
//
// The files below ROOT-DIR become the one layer, owned by root, with the times
// of SOURCE_DATE_EPOCH, so that the same files give the same archive.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func main() {
	name := flag.String("name", "", "name and tag recorded in the archive's index")
	out := flag.String("o", "", "file to write")
	flag.Parse()
	if err := build(*name, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "ociimage:", err)
		os.Exit(1)
	}
}

func build(name, out string, args []string) error {
	if name == "" || out == "" || len(args) < 2 {
		return fmt.Errorf("usage: ociimage -name NAME:TAG -o FILE ROOT-DIR ENTRYPOINT [ARG...]")
	}
	epoch, _ := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	when := time.Unix(epoch, 0).UTC()
	files, err := tarTree(args[0], when)
	if err != nil {
		return fmt.Errorf("pack %s: %w", args[0], err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return fmt.Errorf("make layer: %w", err)
	}
	// The library's types are Docker's unless told; engines refuse a mixture.
	blank := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.AppendLayers(blank, layer)
	if err != nil {
		return fmt.Errorf("add layer: %w", err)
	}
	image, err = mutate.ConfigFile(image, config(image, args[1:], when))
	if err != nil {
		return fmt.Errorf("set configuration: %w", err)
	}
	dir, err := os.MkdirTemp("", "ociimage")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	if err := path.AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": name})); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	archive, err := tarTree(dir, when)
	if err != nil {
		return fmt.Errorf("pack layout: %w", err)
	}
	return os.WriteFile(out, archive, 0o644)
}

func config(image v1.Image, entrypoint []string, when time.Time) *v1.ConfigFile {
	cfg, err := image.ConfigFile()
	if err != nil {
		cfg = &v1.ConfigFile{}
	}
	cfg = cfg.DeepCopy()
	cfg.Architecture, cfg.OS = runtime.GOARCH, "linux"
	if arch := os.Getenv("GOARCH"); arch != "" {
		cfg.Architecture = arch
	}
	cfg.Created = v1.Time{Time: when}
	cfg.Config.Entrypoint = entrypoint
	return cfg
}

func tarTree(root string, when time.Time) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		h.Name, h.ModTime, h.Uid, h.Gid, h.Uname, h.Gname = filepath.ToSlash(rel), when, 0, 0, "", ""
		if d.IsDir() {
			h.Name += "/"
		}
		if err := w.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil { // writes the end marker: before Bytes
		return nil, err
	}
	return buf.Bytes(), nil
}
