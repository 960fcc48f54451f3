package datapathtest

import (
	"fmt"
	"sync"
	"testing"

	"weft/model"
)

// olderSockets: the program at a socket that was there before the driver is known,
// also where it spoke at every instant of the driver's coming. The driver has been
// removed before.
func (s *suite) olderSockets(t *testing.T) {
	var talks []func() Outcome
	for range 16 {
		talks = append(talks, s.Hold(t, "c1", "c2", "tcp", 80))
	}
	s.driver = s.open(t, s.Site)
	stop := make(chan struct{})
	var all sync.WaitGroup
	for _, talk := range talks {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					talk()
				}
			}
		})
	}
	s.apply(t, s.World(model.ModeObserve, allowAll))
	close(stop)
	all.Wait()
	s.apply(t, s.World(model.ModeEnforce, fmt.Sprintf(`
  subject: {selector: "app=web", processes: [{exe: %s}]}
  egress: [{action: Allow}]`, s.Endpoint("c1").Exe), fmt.Sprintf(`
  subject: {selector: "app=db", processes: [{exe: %s}]}
  ingress: [{action: Allow}]`, s.Endpoint("c2").Exe)))
	cut := 0
	for _, talk := range talks {
		if talk() != Allowed {
			cut++
		}
	}
	if cut > 0 {
		t.Errorf("%d of %d connections are cut, though the policies allow their programs", cut, len(talks))
	}
}
