package model

import (
	"fmt"
	"slices"
	"strings"
)

// The words that stand alone in a list of claims.
const (
	ClaimAny  = "any"
	ClaimNone = "none"
)

// Claims are the label keys that a host's agent may claim, for itself and for what
// runs there: whole keys, or beginnings that end in "*"; or "any" or "none" alone.
// An empty list says nothing, and the next who has a say is asked.
type Claims []string

// Allow says whether a label with that key may be claimed. A list that says
// nothing allows any.
func (c Claims) Allow(key string) bool {
	if len(c) == 0 {
		return true
	}
	for _, claim := range c {
		start, open := strings.CutSuffix(claim, "*")
		switch {
		case claim == ClaimNone:
			return false
		case claim == ClaimAny, claim == key, open && strings.HasPrefix(key, start):
			return true
		}
	}
	return false
}

// Check returns what is wrong with the list.
func (c Claims) Check() error {
	for _, claim := range c {
		if claim == ClaimAny || claim == ClaimNone {
			if len(c) > 1 {
				return fmt.Errorf("%q stands alone; leave out the others", claim)
			}
			return nil
		}
		start, open := strings.CutSuffix(claim, "*")
		if open && start == "" {
			return fmt.Errorf(`"*": write any`)
		}
		// A beginning may end where no key may: "app." or "cloud.tag/".
		if err := CheckLabelKey(strings.TrimRight(start, "-_./:")); err != nil || !open && start != strings.TrimRight(start, "-_./:") {
			return fmt.Errorf("%q is neither a label key, nor the beginning of one with a * behind it, nor any or none", claim)
		}
	}
	return nil
}

// String is the list as a flag takes it.
func (c Claims) String() string { return strings.Join(c, ",") }

// ParseClaims reads the list of a flag.
func ParseClaims(text string) (Claims, error) {
	if text == "" {
		return nil, nil
	}
	c := Claims(strings.Split(text, ","))
	for i := range c {
		c[i] = strings.TrimSpace(c[i])
	}
	return slices.Compact(c), c.Check()
}

func (c Claims) check(e *FieldErrors, field string) {
	if err := c.Check(); err != nil {
		e.add(field, err)
	}
}
