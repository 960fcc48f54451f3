package main

import "testing"

func TestRates(t *testing.T) {
	direct, relayed, err := rates([]byte(`goos: linux
BenchmarkStream/direct-2         	   18052	     66603 ns/op	 983.99 MB/s	      66 B/op	       2 allocs/op
BenchmarkStream/relay-2          	    6504	    211821 ns/op	 309.39 MB/s	    2187 B/op	      19 allocs/op
PASS
`))
	if err != nil || direct != 983.99 || relayed != 309.39 {
		t.Errorf("got %g and %g, %v", direct, relayed, err)
	}
	if _, _, err := rates([]byte("PASS\n")); err == nil {
		t.Error("no error for output without a rate")
	}
}
