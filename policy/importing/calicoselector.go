package importing

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"weft/model"
)

// anyOf is a choice of workloads: one of the selectors must hold. None at all
// takes nobody, one without requirements everybody.
type anyOf []model.Selector

// maxAlternatives bounds what an expression may grow to when it is written as a
// choice.
const maxAlternatives = 64

var errUnsaid = errors.New("is not known to weft's labels")

// calicoExpression reads a selector of Calico: comparisons joined by &&, || and !.
// The error is errUnsaid, wrapped, for what is right and cannot be said. key maps
// the keys of labels.
func calicoExpression(text string, key func(string) (string, bool)) (anyOf, error) {
	p := calicoParser{text: text, key: key}
	if p.space(); p.pos == len(p.text) {
		return anyOf{{}}, nil
	}
	out, err := p.or(false, 0)
	if err == nil && p.pos != len(p.text) {
		err = fmt.Errorf("at column %d: want && or ||, have %q", p.pos+1, short(p.text[p.pos:]))
	}
	return out, err
}

type calicoParser struct {
	text string
	pos  int
	key  func(string) (string, bool)
	// unsaid is the first thing that cannot be said; the rest is still checked.
	unsaid error
}

func (p *calicoParser) space() {
	for p.pos < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.pos]) >= 0 {
		p.pos++
	}
}

func (p *calicoParser) take(token string) bool {
	if !strings.HasPrefix(p.text[p.pos:], token) {
		return false
	}
	p.pos += len(token)
	p.space()
	return true
}

// or reads alternatives; under a negation they are all refused.
func (p *calicoParser) or(not bool, depth int) (anyOf, error) {
	if depth > maxDepth {
		return nil, errDeep
	}
	out, err := p.and(not, depth)
	for err == nil && p.take("||") {
		var next anyOf
		if next, err = p.and(not, depth); err == nil {
			out, err = join(out, next, not)
		}
	}
	if err == nil && p.unsaid != nil && depth == 0 {
		err = p.unsaid
	}
	return out, err
}

func (p *calicoParser) and(not bool, depth int) (anyOf, error) {
	out, err := p.factor(not, depth)
	for err == nil && p.take("&&") {
		var next anyOf
		if next, err = p.factor(not, depth); err == nil {
			out, err = join(out, next, !not)
		}
	}
	return out, err
}

// join takes both (all) or one of two choices.
func join(a, b anyOf, all bool) (anyOf, error) {
	if !all {
		a = append(slices.Clone(a), b...)
	} else {
		var out anyOf
		for _, x := range a {
			for _, y := range b {
				if out = append(out, and(x, y)); len(out) > maxAlternatives {
					return nil, fmt.Errorf("%w: it needs more than %d alternatives", errUnsaid, maxAlternatives)
				}
			}
		}
		a = out
	}
	if len(a) > maxAlternatives {
		return nil, fmt.Errorf("%w: it needs more than %d alternatives", errUnsaid, maxAlternatives)
	}
	return a, nil
}

func (p *calicoParser) factor(not bool, depth int) (anyOf, error) {
	if depth > maxDepth {
		return nil, errDeep
	}
	switch {
	case p.take("!"):
		return p.factor(!not, depth+1)
	case p.take("("):
		out, err := p.or(not, depth+1)
		if err == nil && !p.take(")") {
			err = fmt.Errorf("at column %d: want ')'", p.pos+1)
		}
		return out, err
	}
	at := p.pos
	name := p.word()
	if name == "" {
		return nil, fmt.Errorf("at column %d: want a label, all(), has(LABEL), '!' or '(', have %q", at+1, short(p.text[at:]))
	}
	if (name == "all" || name == "global") && p.take("(") {
		if !p.take(")") {
			return nil, fmt.Errorf("at column %d: want ')'", p.pos+1)
		}
		if name == "all" {
			return truth(!not), nil
		}
		return p.requirement(namespaceLabel, model.OpDoesNotExist, nil, not), nil
	}
	if name == "has" && p.take("(") {
		label := p.word()
		if label == "" || !p.take(")") {
			return nil, fmt.Errorf("at column %d: want has(LABEL)", p.pos+1)
		}
		return p.mapped(label, model.OpExists, nil, not), nil
	}
	return p.comparison(name, not)
}

func truth(holds bool) anyOf {
	if holds {
		return anyOf{{}}
	}
	return anyOf{}
}

func (p *calicoParser) word() string {
	start := p.pos
	for p.pos < len(p.text) && (p.text[p.pos] >= 'a' && p.text[p.pos] <= 'z' || p.text[p.pos] >= 'A' && p.text[p.pos] <= 'Z' || p.text[p.pos] >= '0' && p.text[p.pos] <= '9' || strings.IndexByte("_./-", p.text[p.pos]) >= 0) {
		p.pos++
	}
	word := p.text[start:p.pos]
	p.space()
	return word
}

func (p *calicoParser) comparison(label string, not bool) (anyOf, error) {
	at := p.pos
	var op model.Operator
	switch {
	case p.take("=="):
		op = model.OpIn
	case p.take("!="):
		op = model.OpNotIn
	default:
		switch word := p.word(); word {
		case "in":
			op = model.OpIn
		case "not":
			if p.word() != "in" {
				return nil, fmt.Errorf("at column %d: want \"not in\"", at+1)
			}
			op = model.OpNotIn
		case "contains", "starts", "ends":
			if word != "contains" && p.word() != "with" {
				return nil, fmt.Errorf("at column %d: want \"%s with\"", at+1, word)
			}
			_, err := p.quoted()
			p.cannot(fmt.Sprintf("%q compares a part of a value", word))
			return truth(true), err
		default:
			return nil, fmt.Errorf("at column %d: after %q want ==, !=, in, not in, contains, starts with or ends with", at+1, short(label))
		}
		values, err := p.set()
		return p.mapped(label, op, values, not), err
	}
	value, err := p.quoted()
	return p.mapped(label, op, []string{value}, not), err
}

func (p *calicoParser) set() ([]string, error) {
	if !p.take("{") {
		return nil, fmt.Errorf("at column %d: want '{' before the values", p.pos+1)
	}
	var out []string
	for !p.take("}") {
		if len(out) > 0 && !p.take(",") {
			return nil, fmt.Errorf("at column %d: want ',' or '}' after a value", p.pos+1)
		}
		v, err := p.quoted()
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (p *calicoParser) quoted() (string, error) {
	if p.pos < len(p.text) && (p.text[p.pos] == '\'' || p.text[p.pos] == '"') {
		if value, _, closed := strings.Cut(p.text[p.pos+1:], p.text[p.pos:p.pos+1]); closed {
			p.pos += len(value) + 2
			p.space()
			return value, nil
		}
	}
	return "", fmt.Errorf("at column %d: want a value in quotes", p.pos+1)
}

func (p *calicoParser) cannot(why string) {
	if p.unsaid == nil {
		p.unsaid = fmt.Errorf("%w: %s", errUnsaid, why)
	}
}

func (p *calicoParser) mapped(label string, op model.Operator, values []string, not bool) anyOf {
	mapped, ok := p.key(label)
	if !ok || model.CheckLabelKey(mapped) != nil {
		p.cannot(fmt.Sprintf("the label %q", short(label)))
		return truth(true)
	}
	return p.requirement(mapped, op, values, not)
}

func (p *calicoParser) requirement(key string, op model.Operator, values []string, not bool) anyOf {
	if not {
		op = map[model.Operator]model.Operator{model.OpIn: model.OpNotIn, model.OpNotIn: model.OpIn, model.OpExists: model.OpDoesNotExist, model.OpDoesNotExist: model.OpExists}[op]
	}
	for _, v := range values {
		if model.CheckLabelValue(v) != nil {
			p.cannot(fmt.Sprintf("the value %q", short(v)))
		}
	}
	if len(values) == 0 && (op == model.OpIn || op == model.OpNotIn) { // an empty set holds nothing
		return truth(op == model.OpNotIn)
	}
	r := in(key, values...)
	r.Operator = op
	if len(values) == 0 {
		r.Values = nil
	}
	return anyOf{selector(r)}
}
