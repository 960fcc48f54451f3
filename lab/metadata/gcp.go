package metadata

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

type gcp struct{ root map[string]any }

func newGCP(i Instance) *gcp {
	number := "100000000001"
	nic := map[string]any{
		"ip": i.Address, "mac": i.MAC, "network": "projects/" + number + "/networks/" + i.Network, "accessConfigs": []any{},
	}
	if i.PublicIP != "" {
		nic["accessConfigs"] = []any{map[string]any{"externalIp": i.PublicIP, "type": "ONE_TO_ONE_NAT"}}
	}
	// Google shows a machine's metadata keys to the machine; labels only by
	// its API. A lab's tags appear as both network tags and attributes.
	attributes, tags := map[string]any{}, []any{}
	for k, v := range i.Tags {
		attributes[k] = v
	}
	for _, k := range sortedKeys(attributes) {
		tags = append(tags, k+"-"+fmt.Sprint(attributes[k]))
	}
	id, err := strconv.ParseUint(i.InstanceID, 10, 64)
	var number64 any = id
	if err != nil {
		number64 = i.InstanceID
	}
	return &gcp{root: map[string]any{
		"instance": map[string]any{
			"attributes": attributes, "hostname": i.Name + ".c." + i.Account + ".internal", "id": number64, "image": i.Image,
			"machineType": "projects/" + number + "/machineTypes/" + i.InstanceType, "name": i.Name,
			"networkInterfaces": []any{nic}, "tags": tags, "zone": "projects/" + number + "/zones/" + i.Zone,
		},
		"project": map[string]any{"projectId": i.Account, "numericProjectId": json.Number(number), "attributes": map[string]any{}},
	}}
}

func (g *gcp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Metadata-Flavor", "Google")
	w.Header().Set("Server", "Metadata Server for VM")
	if r.Header.Get("Metadata-Flavor") != "Google" || r.Header.Get("X-Forwarded-For") != "" {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/computeMetadata/v1")
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	var at any = g.root
	for _, part := range strings.FieldsFunc(path, func(c rune) bool { return c == '/' }) {
		if at, ok = child(at, part); !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
	}
	query := r.URL.Query()
	_, isMap := at.(map[string]any)
	list, isList := at.([]any)
	directory := isMap || isList && (len(list) == 0 || !isScalar(list[0]))
	if query.Get("recursive") == "true" || query.Get("alt") == "json" || isList && !directory {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(at)
		return
	}
	if directory {
		w.Header().Set("Content-Type", "application/text")
		fmt.Fprint(w, listing(at))
		return
	}
	w.Header().Set("Content-Type", "application/text")
	fmt.Fprint(w, at)
}

func isScalar(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return false
	}
	return true
}

// child finds one step of a path; Google writes names with hyphens where its
// JSON has camel case.
func child(at any, part string) (any, bool) {
	switch at := at.(type) {
	case map[string]any:
		if v, ok := at[part]; ok {
			return v, true
		}
		for k, v := range at {
			if hyphens(k) == part {
				return v, true
			}
		}
	case []any:
		if n, err := strconv.Atoi(part); err == nil && n >= 0 && n < len(at) {
			return at[n], true
		}
	}
	return nil, false
}

func hyphens(camel string) string {
	var b strings.Builder
	for _, c := range camel {
		if c >= 'A' && c <= 'Z' {
			b.WriteByte('-')
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}

func listing(at any) string {
	var b strings.Builder
	line := func(name string, v any) {
		if !isScalar(v) && name != "tags" {
			name += "/"
		}
		b.WriteString(name + "\n")
	}
	switch at := at.(type) {
	case map[string]any:
		for _, k := range sortedKeys(at) {
			line(hyphens(k), at[k])
		}
	case []any:
		for i, v := range at {
			line(strconv.Itoa(i), v)
		}
	}
	return b.String()
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
