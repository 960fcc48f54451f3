package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"weft/model"
)

// A device of the landing device's name that somebody else made is left alone;
// the tap says so, and takes over when it is gone.
func TestForeignDevice(t *testing.T) {
	t.Parallel()
	f := newFleet(t, flat)
	f.controller()
	f.agents("tool", "web")
	tool := f.lab.Host("tool")
	for _, c := range []struct{ kind, owner string }{{"bridge", "type bridge"}, {"veth", "type veth peer name other"}} {
		t.Run(c.kind, func(t *testing.T) {
			f.run(tool, append([]string{"ip", "link", "add", "weft0"}, strings.Fields(c.owner)...)...)
			before := f.run(tool, "ip", "-o", "link", "show", "weft0")
			f.applied(tapWeb)
			tap := f.reaches("web", model.TapError, 3*time.Second)
			want := fmt.Sprintf(`device weft0 exists and is not weft's (%s): remove it with "ip link del weft0", or name another in the tap's spec.deliver.device`, c.kind)
			f.wait(10*time.Second, "the tap says what is in its way", func() (err error) {
				if tap, err = f.tap("web"); err == nil && !strings.Contains(tap.Status.Message, want) {
					err = fmt.Errorf("it says %q", tap.Status.Message)
				}
				return err
			})
			if got := tap.Status.Tools[0]; got.State != "Error" || !strings.Contains(got.Message, want) {
				t.Errorf("the tool is %+v", got)
			}
			says(t, "describe host", f.ok("describe", "host", "tool"), "weft0 exists and is not weft's")
			if after := f.run(tool, "ip", "-o", "link", "show", "weft0"); after != before {
				t.Errorf("the foreign device was touched:\n%s%s", before, after)
			}
			// Another name helps at once ...
			f.applied(tapWeb + "  deliver: {device: weft1}\n")
			f.reaches("web", model.TapActive, 5*time.Second)
			f.applied(tapWeb)
			f.reaches("web", model.TapError, 3*time.Second)
			// ... and so does the remedy, without anybody telling weft.
			f.run(tool, "ip", "link", "del", "weft0")
			f.reaches("web", model.TapActive, 15*time.Second)
			f.ok("delete", "tap", "web")
			f.wait(3*time.Second, "the device goes", func() error {
				if out, err := tool.Command(f.ctx, "ip", "link", "show", "weft0").CombinedOutput(); err == nil {
					return fmt.Errorf("still there: %s", out)
				}
				return nil
			})
		})
	}
}
