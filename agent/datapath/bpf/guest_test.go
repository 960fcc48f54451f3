package bpf

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"weft/agent/datapath"
	"weft/agent/datapath/datapathtest"
	"weft/internal/tchook"
)

// Guests are judged as everything else is, by both ways of holding a program at a
// port, and nothing is left behind.
func TestGuestConformance(t *testing.T) {
	for way, clsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(way, func(t *testing.T) {
			if !clsact && !tchook.TCX().Yes() {
				t.Skip(tchook.TCX())
			}
			pins := mountBPF(t)
			var driver *Driver
			var site *datapathtest.Site
			options := datapathtest.Options{SeesSockets: true, Processes: true, Rejects: true, Pings: true, Accounts: true,
				Tamper: func(t *testing.T, n int) bool { return tamperPorts(t, driver, site, clsact, n) }}
			datapathtest.RunGuests(t, options, func(t *testing.T, s *datapathtest.Site) datapath.Driver {
				d, err := Open(Config{CgroupRoot: s.Root, PinDir: pins, Clsact: clsact}, Deps{})
				if err != nil {
					t.Fatal(err)
				}
				driver, site = d, s
				return inMachine{d, s}
			})
			if t.Failed() {
				return
			}
			out, err := exec.Command("nsenter", "--net="+site.Machine, "tc", "qdisc", "show", "clsact").CombinedOutput()
			if err != nil || strings.Contains(string(out), "clsact") {
				t.Errorf("left behind: %v %s", err, out)
			}
		})
	}
}

// tamperPorts does what somebody with root's rights could do at ports.
func tamperPorts(t *testing.T, d *Driver, s *datapathtest.Site, clsact bool, n int) bool {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tcx, _ := d.guestPorts.hooks.(*tcxPorts)
	var out portHook
	for ifindex := range d.last.guests.ports {
		out = portHook{int(ifindex), true}
	}
	switch {
	case n == 0:
		for k := range d.guestPorts.guests.have {
			must(d.guestPorts.objects.Guests.Delete(k))
		}
	case n == 1:
		for k := range d.guestPorts.homes.have {
			must(d.guestPorts.objects.Homes.Delete(k))
		}
	case clsact && n == 2:
		must(exec.Command("nsenter", "--net="+s.Machine, "tc", "filter", "del", "dev", "vg1", "ingress").Run())
		must(exec.Command("nsenter", "--net="+s.Machine, "tc", "filter", "del", "dev", "vg2", "egress").Run())
	case clsact && n == 3:
		must(exec.Command("nsenter", "--net="+s.Machine, "tc", "qdisc", "del", "dev", "vg1", "clsact").Run())
		must(exec.Command("nsenter", "--net="+s.Machine, "tc", "qdisc", "del", "dev", "vg2", "clsact").Run())
	case !clsact && n == 2:
		must(tcx.held[out].Detach())
	case !clsact && n == 3:
		must(os.Remove(tcx.pin(out)))
	case !clsact && n == 4: // a judge that lets everything pass
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "MIT", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
		must(err)
		must(tcx.held[out].Update(p))
		must(p.Close())
	default:
		return false
	}
	return true
}
