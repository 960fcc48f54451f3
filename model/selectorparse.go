package model

import (
	"errors"
	"fmt"
	"strings"
)

type selectorParser struct {
	text string
	pos  int
}

func (p *selectorParser) parse() (Selector, error) {
	var s Selector
	if strings.TrimSpace(p.text) == "*" {
		return s, nil
	}
	for {
		r, err := p.requirement()
		if err != nil {
			return Selector{}, err
		}
		if err := r.check(); err != nil {
			return Selector{}, err
		}
		r.Values = sortedSet(r.Values)
		s.Requirements = append(s.Requirements, r)
		p.space()
		if p.pos == len(p.text) {
			s.sort()
			return s, nil
		}
		if p.text[p.pos] != ',' {
			return Selector{}, fmt.Errorf("at column %d: want ',' between requirements, have %q", p.pos+1, p.text[p.pos:])
		}
		p.pos++
	}
}

func (p *selectorParser) space() {
	for p.pos < len(p.text) && (p.text[p.pos] == ' ' || p.text[p.pos] == '\t') {
		p.pos++
	}
}

// word reads up to a delimiter.
func (p *selectorParser) word() string {
	p.space()
	start := p.pos
	for p.pos < len(p.text) && !strings.ContainsRune(" \t,=!()", rune(p.text[p.pos])) {
		p.pos++
	}
	return p.text[start:p.pos]
}

func (p *selectorParser) take(tok string) bool {
	if strings.HasPrefix(p.text[p.pos:], tok) {
		p.pos += len(tok)
		return true
	}
	return false
}

func (p *selectorParser) requirement() (Requirement, error) {
	p.space()
	if p.pos == len(p.text) {
		if p.text == "" {
			return Requirement{}, errors.New(`is empty; write "*" to match everything`)
		}
		return Requirement{}, errors.New("ends after a comma")
	}
	if p.take("!") {
		return Requirement{Key: p.word(), Operator: OpDoesNotExist}, nil
	}
	at := p.pos + 1
	key := p.word()
	if key == "" {
		return Requirement{}, fmt.Errorf("at column %d: want a label key, have %q", at, p.text[at-1:])
	}
	p.space()
	switch {
	case p.take("=="), p.take("="):
		return Requirement{Key: key, Operator: OpIn, Values: []string{p.word()}}, nil
	case p.take("!="):
		return Requirement{Key: key, Operator: OpNotIn, Values: []string{p.word()}}, nil
	case p.pos == len(p.text) || p.text[p.pos] == ',':
		return Requirement{Key: key, Operator: OpExists}, nil
	}
	at = p.pos + 1
	var op Operator
	switch word := p.word(); word {
	case "in":
		op = OpIn
	case "notin":
		op = OpNotIn
	default:
		return Requirement{}, fmt.Errorf("at column %d: after key %q want =, !=, in, notin or a comma, have %q", at, key, p.text[at-1:])
	}
	values, err := p.values()
	return Requirement{Key: key, Operator: op, Values: values}, err
}

func (p *selectorParser) values() ([]string, error) {
	p.space()
	if !p.take("(") {
		return nil, fmt.Errorf("at column %d: want '(' before the values", p.pos+1)
	}
	var values []string
	for {
		values = append(values, p.word())
		p.space()
		switch {
		case p.take(","):
		case p.take(")"):
			return values, nil
		default:
			return nil, fmt.Errorf("at column %d: want ',' or ')' after a value", p.pos+1)
		}
	}
}
