package observe

import (
	"testing"
	"time"
)

func TestStalledExportIsAnAlert(t *testing.T) {
	o := New(Config{}, Deps{})
	changed := o.Changed()
	o.ExportStalled("siem", time.Now(), "it answers 503")
	select {
	case <-changed:
	default:
		t.Error("nobody is told")
	}
	list := o.Alerts()
	if len(list) != 1 || list[0].Metadata.Name != "controller:ExportStalled:siem" || list[0].Spec.Message != "it answers 503" || list[0].Spec.Host != "" {
		t.Fatalf("%+v", list)
	}
	if o.ExportStalled("siem", time.Now(), ""); len(o.Alerts()) != 0 {
		t.Errorf("it is not over: %+v", o.Alerts())
	}
}

// Each condition of the controller's is its own: what is said of a file of places
// says nothing of an exporter of that name.
func TestStaleGeoIPIsAnAlert(t *testing.T) {
	o := New(Config{}, Deps{})
	o.ExportStalled("countries.mmdb", time.Now(), "it answers 503")
	o.GeoIPStale("countries.mmdb", time.Now(), "it is broken")
	if list := o.Alerts(); len(list) != 2 {
		t.Fatalf("%+v", list)
	}
	o.ExportStalled("countries.mmdb", time.Now(), "")
	if list := o.Alerts(); len(list) != 1 || list[0].Metadata.Name != "controller:GeoIPStale:countries.mmdb" || list[0].Spec.Message != "it is broken" {
		t.Errorf("%+v", list)
	}
}
