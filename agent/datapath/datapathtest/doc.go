// Package datapathtest tries a datapath driver: real sockets in namespaces and
// cgroups of the test's own, each verdict compared with policy.World.Evaluate.
//
// A test's package calls Main from its TestMain: the endpoints are copies of
// the test binary.
package datapathtest
