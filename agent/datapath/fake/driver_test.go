package fake_test

import (
	"testing"

	"weft/agent/datapath"
	"weft/agent/datapath/datapathtest"
	"weft/agent/datapath/fake"
)

func TestConformance(t *testing.T) {
	k := fake.NewKernel()
	datapathtest.RunFake(t, k, func(*testing.T, *datapathtest.Site) datapath.Driver { return fake.Open(k) })
}
