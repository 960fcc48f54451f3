package metadata

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Limits of a token's life, in seconds (AWS: 1 second to 6 hours).
const maxTokenTTL = 21600

type aws struct {
	instance Instance
	tree     map[string]string // path below /latest/ to value
	mu       sync.Mutex
	tokens   map[string]time.Time // until when each is good
}

func newAWS(i Instance) *aws {
	a := &aws{instance: i, tokens: map[string]time.Time{}}
	document, _ := json.MarshalIndent(map[string]any{
		"accountId": i.Account, "architecture": "x86_64", "availabilityZone": i.Zone, "imageId": i.Image,
		"instanceId": i.InstanceID, "instanceType": i.InstanceType, "privateIp": i.Address, "region": i.Region,
		"version": "2017-09-30", "pendingTime": "2026-01-01T00:00:00Z",
	}, "", "  ")
	mac := "meta-data/network/interfaces/macs/" + i.MAC + "/"
	a.tree = map[string]string{
		"meta-data/ami-id":                      i.Image,
		"meta-data/hostname":                    i.Name,
		"meta-data/instance-id":                 i.InstanceID,
		"meta-data/instance-type":               i.InstanceType,
		"meta-data/local-hostname":              i.Name,
		"meta-data/local-ipv4":                  i.Address,
		"meta-data/mac":                         i.MAC,
		"meta-data/public-ipv4":                 i.PublicIP,
		"meta-data/placement/availability-zone": i.Zone,
		"meta-data/placement/region":            i.Region,
		mac + "device-number":                   "0",
		mac + "local-ipv4s":                     i.Address,
		mac + "mac":                             i.MAC,
		mac + "owner-id":                        i.Account,
		mac + "public-ipv4s":                    i.PublicIP,
		mac + "subnet-ipv4-cidr-block":          i.Subnet,
		mac + "vpc-id":                          i.Network,
		"dynamic/instance-identity/document":    string(document),
	}
	for k, v := range i.Tags {
		a.tree["meta-data/tags/instance/"+k] = v
	}
	for path, value := range a.tree {
		if value == "" {
			delete(a.tree, path)
		}
	}
	return a
}

func (a *aws) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Requests that came through a proxy get no token.
	if r.URL.Path == "/latest/api/token" {
		a.token(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if !a.good(r.Header.Get("X-aws-ec2-metadata-token")) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/latest/")
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if value, ok := a.tree[path]; ok {
		text(w, value)
		return
	}
	text(w, a.list(strings.TrimSuffix(path, "/")))
}

func (a *aws) token(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodPut:
		w.Header().Set("Allow", "OPTIONS, PUT")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	case r.Header.Get("X-Forwarded-For") != "":
		w.WriteHeader(http.StatusForbidden)
		return
	}
	ttl, err := strconv.Atoi(r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds"))
	if err != nil || ttl < 1 || ttl > maxTokenTTL {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	b := make([]byte, 28)
	rand.Read(b)
	token := hex.EncodeToString(b)
	now := time.Now()
	a.mu.Lock()
	for t, until := range a.tokens {
		if now.After(until) {
			delete(a.tokens, t)
		}
	}
	a.tokens[token] = now.Add(time.Duration(ttl) * time.Second)
	a.mu.Unlock()
	w.Header().Set("X-aws-ec2-metadata-token-ttl-seconds", strconv.Itoa(ttl))
	text(w, token)
}

func (a *aws) good(token string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	until, ok := a.tokens[token]
	return ok && time.Now().Before(until)
}

// list names what is directly below a path, directories with a slash. A
// machine without tags has no tags directory, as where tags are not allowed in
// metadata.
func (a *aws) list(path string) string {
	var names []string
	for p := range a.tree {
		rest, ok := strings.CutPrefix(p, path+"/")
		if !ok {
			continue
		}
		name, _, deeper := strings.Cut(rest, "/")
		// A tag's key may hold a slash and is one name.
		if path == "meta-data/tags/instance" {
			name, deeper = rest, false
		}
		if deeper {
			name += "/"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), "\n")
}
