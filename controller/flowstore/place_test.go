package flowstore

import "testing"

// What is kept of a place is read again as it was.
func FuzzPlace(f *testing.F) {
	f.Add("NO", uint32(64500), "Example of Bergen")
	f.Add("", uint32(1), "")
	f.Add("SE", uint32(0), "")
	f.Fuzz(func(t *testing.T, country string, as uint32, organization string) {
		in := End{Country: country, AS: as, Organization: organization}
		var out End
		out.readPlace(locationOf(&in).text())
		if (len(country) == 2 && country[0] > ' ' && country[1] > ' ' || country == "") && (as > 0 || organization == "") && (out.Country != in.Country || out.AS != in.AS || out.Organization != in.Organization) {
			t.Errorf("%+v became %+v", in, out)
		}
	})
}
