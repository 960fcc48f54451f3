package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/model"
)

// intent is what people want, as the controller holds it, with the identities
// of things and without what is reported.
func (f *fleet) intent() string {
	f.t.Helper()
	var b strings.Builder
	for _, plural := range []string{"hosts", "groups", "taps", "jointokens"} {
		var list []struct {
			Metadata model.Metadata
			Spec     json.RawMessage
		}
		if err := f.get(&list, plural); err != nil {
			f.t.Fatal(err)
		}
		for _, r := range list {
			fmt.Fprintf(&b, "%s %s %s %s\n", plural, r.Metadata.Name, r.Metadata.UID, r.Spec)
		}
	}
	return b.String()
}

// TestControllerRestart asks that all is there again, from the embedded store
// and from an etcd of the owner's.
func TestControllerRestart(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"embedded", "etcd"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, flat)
			if mode == "etcd" {
				f.helper("etcd", "etcd", f.lab.Host(controllerHost), filepath.Join(f.state(controllerHost), "etcd"))
				f.extra[controllerHost] = []string{"--etcd", "http://127.0.0.1:2379"}
				f.wait(10*time.Second, "etcd listens", func() error {
					if out := f.run(f.lab.Host(controllerHost), "ss", "-Hltn"); !strings.Contains(out, "127.0.0.1:2379") {
						return fmt.Errorf("%s", out)
					}
					return f.procs["etcd"].alive()
				})
			}
			f.controller()
			f.agents("tool", "web")
			f.applied("apiVersion: weft/v1\nkind: Group\nmetadata: {name: web}\nspec: {selector: 'app=web,workload.kind=host'}\n")
			f.applied(tapOf("web", "{group: web}", toTool, `filter: "tcp port 80"`))
			f.token("spare", "edge", "--uses", "2", "--labels", "site=edge")
			f.reaches("web", model.TapActive, 5*time.Second)
			before := f.intent()
			f.procs[controllerHost].end()
			if mode == "etcd" {
				// Without its etcd it says so and ends.
				f.procs["etcd"].end()
				h := f.lab.Host(controllerHost)
				p := f.start("lost", h, filepath.Join(f.bin, "weft"), "controller", "--data", filepath.Join(h.StateDir(), "controller"), "--listen", ":443", "--socket", "", "--etcd", "http://127.0.0.1:2379")
				says(t, "a controller without its etcd", p.ended(t, 15*time.Second), "reach etcd at [http://127.0.0.1:2379]")
				f.helper("etcd", "etcd", h, filepath.Join(f.state(controllerHost), "etcd"))
				time.Sleep(time.Second)
			}
			f.controller()
			if after := f.intent(); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
			f.online("tool", "web")
			f.reaches("web", model.TapActive, 10*time.Second)
			// The token still counts its uses.
			f.startAgent("spare")
			f.online("spare")
			if h, err := f.host("spare"); err != nil || h.Metadata.Labels["site"] != "edge" {
				t.Errorf("spare has not the labels of its token: %v, %v", h, err)
			}
			if mode == "embedded" {
				if _, err := os.Stat(filepath.Join(f.state(controllerHost), "controller", "etcd")); err != nil {
					t.Error(err)
				}
				return
			}
			// An etcd that goes away: an error in good time, and no harm to the taps.
			f.procs["etcd"].kill()
			began := time.Now()
			r := f.apply(tapWeb)
			if took := time.Since(began); r.err == nil || took > 15*time.Second {
				t.Errorf("apply without etcd: %v after %s: %s", r.err, took, r.stdout)
			}
			says(t, "apply without etcd", r.stderr, "the store does not answer", "etcd at http://127.0.0.1:2379", "agents work on")
			f.helper("etcd", "etcd", f.lab.Host(controllerHost), filepath.Join(f.state(controllerHost), "etcd"))
			f.wait(15*time.Second, "the controller takes writes again", func() error {
				if r := f.apply(tapOf("web", "{group: web}", toTool, "snaplen: 128")); r.err != nil {
					return fmt.Errorf("%s", r.stderr)
				}
				return nil
			})
			f.reaches("web", model.TapActive, 10*time.Second)
		})
	}
}
