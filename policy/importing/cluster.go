package importing

import (
	"maps"
	"slices"

	"weft/model"
)

// The labels by which a pod is known; its own labels are as they are.
const (
	namespaceLabel      = "k8s.namespace"      // the namespace's name
	namespaceLabels     = "k8s.ns/"            // before the key of a label of the namespace
	nodeLabel           = "k8s.node"           // a node's name, on its host
	nodeLabels          = "k8s.node/"          // before the key of a label of the node
	serviceAccountLabel = "k8s.serviceaccount" // the name of the pod's service account
	// metadataName is set on every namespace by Kubernetes itself.
	metadataName = "kubernetes.io/metadata.name"
)

// cluster is what the files say of namespaces and pods.
type cluster struct {
	namespaces map[string]map[string]string // nil where none is given
	pods       []pod
}

type pod struct {
	namespace string
	labels    map[string]string
	ports     map[namedPort]int
}

type namedPort struct {
	protocol, name string
}

// clusterOf takes namespaces and pods out of the objects and returns the others.
func clusterOf(objects []cursor) (*cluster, []cursor) {
	k := &cluster{}
	var rest []cursor
	for _, c := range objects {
		switch kind := c.get("kind").text(); {
		case c.group() == "" && kind == "Namespace":
			if k.namespaces == nil {
				k.namespaces = map[string]map[string]string{}
			}
			labels := c.in("metadata", "labels").labels()
			labels[metadataName] = c.name()
			k.namespaces[c.name()] = labels
		case c.group() == "" && kind == "Pod":
			k.addPod(c)
		default:
			rest = append(rest, c)
		}
	}
	return k, rest
}

func (k *cluster) addPod(c cursor) {
	spec := c.get("spec")
	if spec.get("hostNetwork").truth() {
		spec.get("hostNetwork").find(Same, "the pod is on its node's network and no policy is for it", "it is not counted among the pods")
		return
	}
	p := pod{namespace: c.namespace(), labels: c.in("metadata", "labels").labels(), ports: map[namedPort]int{}}
	for _, list := range []string{"containers", "initContainers"} {
		for _, container := range spec.get(list).items() {
			for _, port := range container.get("ports").items() {
				name, n, ok := port.get("name").text(), 0, false
				if n, ok = port.get("containerPort").whole(1, 65535); name == "" || !ok {
					continue
				}
				protocol := port.get("protocol").text()
				if protocol == "" {
					protocol = "TCP"
				}
				p.ports[namedPort{protocol, name}] = n
			}
		}
	}
	k.pods = append(k.pods, p)
}

// podSet is a choice of pods: a selector over workloads, and the same over the
// pods that are given.
type podSet struct {
	selectors []model.Selector // none: no pod
	has       func(*pod) bool
}

// choose makes a set of the labels of pods and of namespaces; a nil selector has
// no conditions, but of namespaces.
func (k *cluster) choose(c cursor, pods []model.Requirement, namespaces []model.Requirement) podSet {
	set := podSet{has: func(p *pod) bool {
		return model.Selector{Requirements: pods}.Matches(p.labels) && k.mayBeIn(p.namespace, namespaces)
	}}
	requirements := slices.Clone(pods)
	switch {
	case len(namespaces) == 0:
		requirements = append(requirements, exists(namespaceLabel))
	case k.namespaces == nil:
		named := false
		for _, r := range namespaces {
			r = namespaceRequirement(r)
			named = named || r.Key == namespaceLabel && r.Operator == model.OpIn
			requirements = append(requirements, r)
		}
		if !named { // whatever else is asked, it is a pod
			requirements = append(requirements, exists(namespaceLabel))
		}
	default:
		var names []string
		for _, name := range slices.Sorted(maps.Keys(k.namespaces)) {
			if (model.Selector{Requirements: namespaces}).Matches(k.namespaces[name]) {
				names = append(names, name)
			}
		}
		c.find(Same, "takes namespaces by their labels", "it takes those given in the files by name; import again when namespaces or their labels change")
		if len(names) == 0 {
			return podSet{has: func(*pod) bool { return false }}
		}
		requirements = append(requirements, in(namespaceLabel, names...))
	}
	set.selectors = []model.Selector{selector(requirements...)}
	return set
}

// mayBeIn says whether a namespace matches. Of one that is not in the files only
// the name is known: what holds for all that may match holds for those that do.
func (k *cluster) mayBeIn(name string, requirements []model.Requirement) bool {
	labels, known := k.namespaces[name]
	for _, r := range requirements {
		if !known && r.Key == metadataName && !r.Matches(map[string]string{metadataName: name}) || known && !r.Matches(labels) {
			return false
		}
	}
	return known || k.namespaces == nil
}

// inNamespace narrows a set of pods to those of one namespace.
func (k *cluster) inNamespace(name string, pods []model.Requirement) podSet {
	return podSet{
		selectors: []model.Selector{selector(append(slices.Clone(pods), in(namespaceLabel, name))...)},
		has:       func(p *pod) bool { return p.namespace == name && model.Selector{Requirements: pods}.Matches(p.labels) },
	}
}

func namespaceRequirement(r model.Requirement) model.Requirement {
	if r.Key == metadataName {
		r.Key = namespaceLabel
	} else {
		r.Key = namespaceLabels + r.Key
	}
	return r
}

// named returns the number that a named port has on every pod of a set. Why says
// what is in the way where there is none.
func (k *cluster) named(port namedPort, has func(*pod) bool) (number int, why string) {
	found := false
	for i := range k.pods {
		p := &k.pods[i]
		if !has(p) {
			continue
		}
		n, ok := p.ports[port]
		switch {
		case !ok:
			return 0, "not every pod it is for has that port"
		case found && n != number:
			return 0, "the pods give it different numbers"
		}
		number, found = n, true
	}
	if !found {
		return 0, "no pod in the files says its number"
	}
	return number, ""
}
