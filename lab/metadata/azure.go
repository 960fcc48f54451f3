package metadata

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

type azure struct{ root map[string]any }

var apiVersionRE = regexp.MustCompile(`^20[0-9]{2}-[0-9]{2}-[0-9]{2}$`)

func newAzure(i Instance) *azure {
	var tags []string
	list := []any{}
	for k, v := range i.Tags {
		tags = append(tags, k+":"+v)
	}
	slices.Sort(tags)
	for _, t := range tags {
		k, v, _ := strings.Cut(t, ":")
		list = append(list, map[string]any{"name": k, "value": v})
	}
	group := i.Network + "-rg"
	subnet, prefix, _ := strings.Cut(i.Subnet, "/")
	return &azure{root: map[string]any{
		"compute": map[string]any{
			"azEnvironment": "AzurePublicCloud", "location": i.Region, "name": i.Name, "offer": i.Image, "osType": "Linux",
			"resourceGroupName": group, "subscriptionId": i.Account, "tags": strings.Join(tags, ";"), "tagsList": list,
			"vmId": i.InstanceID, "vmSize": i.InstanceType, "zone": i.Zone,
			"resourceId": "/subscriptions/" + i.Account + "/resourceGroups/" + group + "/providers/Microsoft.Compute/virtualMachines/" + i.Name,
		},
		"network": map[string]any{"interface": []any{map[string]any{
			"ipv4": map[string]any{
				"ipAddress": []any{map[string]any{"privateIpAddress": i.Address, "publicIpAddress": i.PublicIP}},
				"subnet":    []any{map[string]any{"address": subnet, "prefix": prefix}},
			},
			"ipv6":       map[string]any{"ipAddress": []any{}},
			"macAddress": strings.ToUpper(strings.ReplaceAll(i.MAC, ":", "")),
		}}},
	}}
}

func (a *azure) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, why string) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]any{"error": why})
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/metadata/instance")
	switch {
	case r.Header.Get("Metadata") != "true" || r.Header.Get("X-Forwarded-For") != "":
		refuse(http.StatusBadRequest, "Bad request. Required metadata header not specified")
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		refuse(http.StatusMethodNotAllowed, "Method not allowed")
		return
	case !ok:
		refuse(http.StatusNotFound, "Not found")
		return
	case !apiVersionRE.MatchString(r.URL.Query().Get("api-version")):
		refuse(http.StatusBadRequest, "Bad request. api-version was not specified in the request. For more information refer to aka.ms/azureimds")
		return
	}
	var at any = a.root
	for _, part := range strings.FieldsFunc(path, func(c rune) bool { return c == '/' }) {
		switch v := at.(type) {
		case map[string]any:
			at, ok = v[part]
		case []any:
			n, err := strconv.Atoi(part)
			if ok = err == nil && n >= 0 && n < len(v); ok {
				at = v[n]
			}
		default:
			ok = false
		}
		if !ok {
			refuse(http.StatusNotFound, "Not found")
			return
		}
	}
	if isScalar(at) {
		if r.URL.Query().Get("format") != "text" {
			refuse(http.StatusBadRequest, "Bad request. Leaf values are served with format=text")
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, at)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	json.NewEncoder(w).Encode(at)
}
