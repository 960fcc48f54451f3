// Package scale makes large fleets for benchmarks of the planner.
package scale

import (
	"cmp"
	"fmt"
	"slices"

	"weft/controller/plan"
	"weft/model"
	"weft/policy"
)

// Fleet is what a plan is made of.
type Fleet struct {
	plan.State
	given map[string]policy.Identity
}

// uplink is the network of all hosts; their workloads have addresses in it, so
// that every one of them is in the fleet's book.
const uplink = 8

// New makes a fleet of so many hosts and nobody on them.
func New(hosts int) *Fleet {
	f := &Fleet{given: map[string]policy.Identity{}}
	f.State = plan.State{TrustDomain: "weft.bench", Interfaces: map[string][]model.Interface{}, CallerKeys: map[string][]byte{}, Number: f.number,
		Failsafe: policy.FailsafeOptions{ControllerPort: 7443}}
	for i := range hosts {
		name := HostName(i)
		f.Hosts = append(f.Hosts, &model.Host{Metadata: model.Metadata{Name: name, UID: "uid-" + name}})
		f.CallerKeys[name] = []byte(fmt.Sprintf("%032d", i))
		f.Interfaces[name] = []model.Interface{{Name: "eth0", Uplink: true, Addresses: []string{fmt.Sprintf("10.200.%d.%d/%d", i/250, i%250+1, uplink)}}}
	}
	return f
}

// HostName is the name of the i-th host.
func HostName(i int) string { return fmt.Sprintf("h%05d", i) }

// number numbers label sets in the order in which they come.
func (f *Fleet) number(labels map[string]string) (policy.Identity, error) {
	key := fmt.Sprint(labels)
	if f.given[key] == 0 {
		f.given[key] = policy.Identity(len(f.given) + 1)
	}
	return f.given[key], nil
}

// Workload makes the n-th workload, on the n-th host modulo their number.
func (f *Fleet) Workload(n int, labels map[string]string) *model.Workload {
	host := HostName(n % len(f.Hosts))
	labels[plan.LabelKind], labels[plan.LabelHost] = string(model.WorkloadContainer), host
	return &model.Workload{Metadata: model.Metadata{Name: fmt.Sprintf("%s:w%06d", host, n), UID: plan.WorkloadUID("uid-"+host, fmt.Sprintf("w%06d", n)), Labels: labels},
		Spec: model.WorkloadSpec{Host: host, Kind: model.WorkloadContainer, Addresses: []string{fmt.Sprintf("10.%d.%d.%d", n>>16, n>>8&255, n&255)}}}
}

// Policy makes an Active policy that lets one selector reach another on a port.
func Policy(name, subject, from string, port int) *model.Policy {
	to, err := model.ParseSelector(subject)
	peer, err2 := model.ParseSelector(from)
	if err != nil || err2 != nil {
		panic(fmt.Sprint(err, err2)) // texts of our own making
	}
	return &model.Policy{TypeMeta: model.TypeMeta{APIVersion: model.APIVersion, Kind: model.KindPolicy}, Metadata: model.Metadata{Name: name, UID: "uid-" + name},
		Spec: model.PolicySpec{Stage: model.StageActive, Subject: model.PolicySubject{Selector: &to}, Ingress: []model.PolicyRule{{Name: "in", Action: model.ActionAllow,
			From: []model.PolicyPeer{{Selector: &peer}}, Ports: []model.PolicyPort{{Protocol: "TCP", Port: &port}}}}}}
}

// Namespaces makes a fleet of namespaces with four workloads and three policies
// each.
func Namespaces(namespaces, hosts int) *Fleet {
	f := New(hosts)
	for n := range namespaces {
		for e := range 4 {
			f.Workloads = append(f.Workloads, f.Workload(4*n+e, Labels(n, e)))
		}
		for e := range 3 {
			f.Policies = append(f.Policies, Policy(fmt.Sprintf("p%05d-%d", n, e), Role(n, e), Role(n, e+1), 80))
		}
	}
	return f.sorted()
}

// sorted sorts workloads and policies as the controller keeps them.
func (f *Fleet) sorted() *Fleet {
	slices.SortFunc(f.Workloads, func(a, b *model.Workload) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	slices.SortFunc(f.Policies, func(a, b *model.Policy) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	return f
}

// Labels are those of a role in a namespace.
func Labels(namespace, role int) map[string]string {
	return map[string]string{"ns": fmt.Sprintf("n%05d", namespace), "role": fmt.Sprintf("r%d", role)}
}

// Role is the selector of a role in a namespace.
func Role(namespace, role int) string { return fmt.Sprintf("ns=n%05d,role=r%d", namespace, role) }

// OneGroup makes a fleet in which every policy is about every workload.
func OneGroup(workloads, policies, hosts int) *Fleet {
	f := New(hosts)
	for n := range workloads {
		f.Workloads = append(f.Workloads, f.Workload(n, map[string]string{"app": "all"}))
	}
	for n := range policies {
		f.Policies = append(f.Policies, Policy(fmt.Sprintf("p%05d", n), "app=all", fmt.Sprintf("client=c%d", n), n%60000+1))
	}
	return f.sorted()
}
