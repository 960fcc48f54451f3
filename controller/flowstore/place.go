package flowstore

import (
	"strconv"
	"strings"
)

// A place is kept as text, in one column, for what has one country has few
// autonomous systems: the country in two letters, or two spaces, and what System
// says. Nothing is known of "".

// location is where an end is and whose.
type location struct {
	country      string
	as           uint32
	organization string
}

func locationOf(e *End) location { return location{e.Country, e.AS, e.Organization} }

const noCountry = "  "

func (l location) text() string {
	if l == (location{}) {
		return ""
	}
	country := l.country
	if len(country) != len(noCountry) {
		country = noCountry
	}
	return country + (&End{AS: l.as, Organization: l.organization}).System()
}

// readPlace reads what text wrote.
func (e *End) readPlace(s string) {
	if len(s) < len(noCountry) {
		return
	}
	e.Country = strings.TrimSpace(s[:len(noCountry)])
	number, organization, _ := strings.Cut(strings.TrimPrefix(s[len(noCountry):], "AS"), " ")
	as, _ := strconv.ParseUint(number, 10, 32)
	e.AS, e.Organization = uint32(as), organization
}

func countryIn(column string) field {
	letters := "substring(CAST(" + column + " AS String), 1, 2)"
	return field{"CASE WHEN " + letters + " = '" + noCountry + "' THEN '' ELSE " + letters + " END", []string{column}}
}

func systemIn(column string) field {
	return field{"substring(CAST(" + column + " AS String), 3)", []string{column}}
}
