package model

import (
	"fmt"
	"regexp"
)

// Limits on names and labels, as in Kubernetes except that a label key may be
// longer and may hold more than one slash ("cloud.tag/team/cost").
const (
	MaxName       = 253
	MaxLabelKey   = 253
	MaxLabelValue = 255
)

var (
	nameRE       = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)
	labelKeyRE   = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_./:]*[A-Za-z0-9])?$`)
	labelValueRE = regexp.MustCompile(`^[A-Za-z0-9_./:@+-]*$`)
)

// CheckName checks the name of a resource: lower-case letters, digits, '-' and
// '.', beginning and ending with a letter or digit (RFC 1123), 253 bytes at most.
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("name is missing")
	case len(name) > MaxName:
		return fmt.Errorf("name is %d bytes long; %d at most", len(name), MaxName)
	case !nameRE.MatchString(name):
		return fmt.Errorf("name %q: use lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit", name)
	}
	return nil
}

// CheckLabelKey checks the key of a label.
func CheckLabelKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("label key is empty")
	case len(key) > MaxLabelKey:
		return fmt.Errorf("label key is %d bytes long; %d at most", len(key), MaxLabelKey)
	case !labelKeyRE.MatchString(key):
		return fmt.Errorf("label key %q: use letters, digits and -_./: , beginning and ending with a letter or digit", key)
	}
	return nil
}

// CheckLabelValue checks the value of a label. It may be empty.
func CheckLabelValue(value string) error {
	switch {
	case len(value) > MaxLabelValue:
		return fmt.Errorf("label value is %d bytes long; %d at most", len(value), MaxLabelValue)
	case !labelValueRE.MatchString(value):
		return fmt.Errorf("label value %q: use letters, digits and -_./:@+", value)
	}
	return nil
}

// CleanLabelValue makes a value that CheckLabelValue accepts out of text from
// elsewhere (a cloud tag, an image name), replacing what is not allowed by '_'.
func CleanLabelValue(text string) string {
	b := []byte(text)
	for i, c := range b {
		if !labelValueRE.Match([]byte{c}) {
			b[i] = '_'
		}
	}
	if len(b) > MaxLabelValue {
		b = b[:MaxLabelValue]
	}
	return string(b)
}
