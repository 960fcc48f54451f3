// Package lab builds networks out of namespaces on one machine: hosts with
// containers, switches, routers, NAT boxes, firewalls, links that delay and
// lose, and cloud metadata services, from a topology file. The real binaries
// run in it.
//
// # Lifecycle
//
//	topo, err := lab.Load("examples/hybrid.yaml")
//	l, err := lab.Up(ctx, topo, lab.Options{})
//	defer l.Down()
//	out, err := l.Host("web-1").Command(ctx, "curl", "-s", "http://www/").Output()
//
// The process that calls Up owns the lab until Down or until it ends. It holds
// a lock on the lab's run directory; a lab whose lock nobody holds is dead, and
// Sweep (which Up calls first) removes it. So a lab survives nothing, and its
// owner may be killed at any time.
//
// Another process reaches a running lab through Open: it can run commands and
// read the state; what changes the lab (a cut link, a container, a later host)
// it asks of the owner, over a Unix socket in the run directory.
//
// # What is made
//
// Every object carries the lab's id (see State). A host is a network
// namespace, a cgroup, a directory and a BPF file system; no process holds it.
// All interfaces are veth pairs between a host's namespace and that of the
// switches, so nothing appears in the root namespace, whose devices, rules,
// routes and sysctls are never touched. A container is the same behind its
// host's bridge and NAT, and has one idle process.
//
// IPv4 only. Linux 5.7 or later (a process is born in its cgroup), cgroup2, and
// the nft program where there is NAT, a firewall or a container.
//
// # What a reader must reject
//
// A change that makes a device, rule, route or sysctl in the root namespace; an
// object that does not carry the id; a removal by memory instead of by what is
// there; a thread that goes back to the pool in another namespace; a process
// ended by its name; a fork per host on the way up or down.
package lab
