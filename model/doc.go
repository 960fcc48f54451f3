// Package model holds the nouns of weft: the resources a person writes, the
// objects an agent reports, and the grammar of labels and selectors.
//
// It does no I/O and starts nothing. Every type prints itself and validates
// itself; an invalid resource is described by a FieldErrors value whose entries
// name the field and the remedy.
package model
