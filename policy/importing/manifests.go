package importing

import (
	"strings"
)

// objects reads Kubernetes-like objects, those of lists one by one.
func (r *run) objects(files []File) []cursor {
	var out []cursor
	for _, f := range files {
		for _, doc := range r.parse(f) {
			out = r.unlist(out, cursor{run: r, file: f.Name, line: doc.line, value: doc}, 0)
		}
	}
	return out
}

func (r *run) unlist(out []cursor, c cursor, depth int) []cursor {
	if c.value.isList && depth < 3 {
		for _, v := range c.value.list {
			out = r.unlist(out, cursor{run: r, file: c.file, line: v.line, value: v}, depth+1)
		}
		return out
	}
	if !c.wantObject() {
		if !c.there() {
			c.fault("is empty; want an object with apiVersion and kind")
		}
		return out
	}
	kind := c.get("kind").text()
	if kind == "" {
		c.get("kind").fault("is missing; want an object with apiVersion and kind, as kubectl get -o yaml writes it")
		return out
	}
	if items := c.get("items"); strings.HasSuffix(kind, "List") && depth < 3 && items.value != nil {
		for _, i := range items.items() {
			// Items of a typed list need not say their kind.
			if i.value.isObject() && i.value.fields["kind"] == nil && kind != "List" {
				i.value.fields["kind"] = &value{line: i.line, scalar: strings.TrimSuffix(kind, "List")}
				i.value.fields["apiVersion"] = c.get("apiVersion").value
			}
			out = r.unlist(out, cursor{run: r, file: i.file, line: i.line, value: i.value}, depth+1)
		}
		return out
	}
	meta := c.get("metadata")
	meta.wantObject()
	name := meta.get("name").text()
	if name == "" {
		meta.get("name").fault("is missing; every object has a name")
	}
	if ns := meta.get("namespace").text(); ns != "" {
		name = ns + "/" + name
	}
	c.object = kind + " " + name
	return append(out, c)
}

// group is the API group of an object: "networking.k8s.io" of "networking.k8s.io/v1".
func (c cursor) group() string {
	group, _, slash := strings.Cut(c.get("apiVersion").text(), "/")
	if !slash {
		return ""
	}
	return group
}

func (c cursor) name() string { return c.in("metadata", "name").text() }

// namespace is "default" where none is written, as kubectl has it.
func (c cursor) namespace() string {
	if ns := c.in("metadata", "namespace").text(); ns != "" {
		return ns
	}
	return "default"
}

// notRead reports an object of another kind. One that restricts traffic and is
// left out opens what it closed.
func (c cursor) notRead() {
	kind := c.get("kind")
	if strings.Contains(kind.text(), "NetworkPolic") || strings.Contains(kind.text(), "FirewallPolic") {
		kind.find(Opens, "is a policy of a kind that this format does not read ("+c.get("apiVersion").text()+")", "it is left out; import it with the --from that reads it")
		return
	}
	kind.find(Same, "is no policy", "it is not read")
}

// labels reads metadata.labels or another object of texts.
func (c cursor) labels() map[string]string {
	out := map[string]string{}
	if !c.wantObject() {
		return out
	}
	for _, k := range c.value.order {
		out[k] = c.get(k).text()
	}
	return out
}
