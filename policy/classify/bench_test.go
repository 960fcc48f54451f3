package classify

import (
	"slices"
	"testing"

	"weft/policy"
)

func BenchmarkUpdate100k(b *testing.B) {
	rules := make([]*policy.Rule, 100_001)
	for i := range rules {
		rules[i] = blockRule(i)
	}
	with, without := &policy.Table{Rules: rules}, &policy.Table{Rules: slices.Delete(slices.Clone(rules), 500, 501)}
	table := Build(with, nil)
	for b.Loop() {
		table = Update(table, without, nil)
		with, without = without, with
	}
}

func BenchmarkBuild100k(b *testing.B) {
	rules := make([]*policy.Rule, 100_000)
	for i := range rules {
		rules[i] = blockRule(i)
	}
	for b.Loop() {
		Build(&policy.Table{Rules: rules}, nil)
	}
}
