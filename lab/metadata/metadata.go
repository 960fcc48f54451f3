// Package metadata answers as the metadata services of AWS (IMDSv2), Google
// and Azure do, as far as an agent on a machine asks.
//
// Sources: "Instance metadata and user data" (AWS), "About VM metadata"
// (Google), "Azure Instance Metadata Service". IMDSv1 is off, as on hardened
// machines: without a token AWS answers 401.
package metadata

import (
	"fmt"
	"hash/fnv"
	"net/http"
)

// Instance is the machine that asks.
type Instance struct {
	Provider     string // aws, gcp or azure
	Name         string
	InstanceID   string
	InstanceType string
	Image        string
	Region       string
	Zone         string
	Account      string // AWS account, Google project, Azure subscription
	Network      string // VPC or virtual network
	Tags         map[string]string
	Address      string
	Subnet       string // CIDR
	PublicIP     string // of its own; may be empty
	MAC          string
}

// Handler returns the service of the instance's provider.
func Handler(i Instance) (http.Handler, error) {
	i.fill()
	switch i.Provider {
	case "aws":
		return newAWS(i), nil
	case "gcp":
		return newGCP(i), nil
	case "azure":
		return newAzure(i), nil
	}
	return nil, fmt.Errorf("provider %q is none of aws, gcp, azure", i.Provider)
}

// fill makes up what is not given, the same for the same name.
func (i *Instance) fill() {
	h := fnv.New64a()
	h.Write([]byte(i.Name))
	sum := h.Sum64()
	def := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	switch i.Provider {
	case "aws":
		def(&i.Region, "us-east-1")
		def(&i.Zone, i.Region+"a")
		def(&i.InstanceID, fmt.Sprintf("i-0%016x", sum))
		def(&i.InstanceType, "t3.micro")
		def(&i.Image, "ami-0abcdef1234567890")
		def(&i.Account, "123456789012")
		def(&i.Network, "vpc-0123456789abcdef0")
	case "gcp":
		def(&i.Region, "us-central1")
		def(&i.Zone, i.Region+"-a")
		def(&i.InstanceID, fmt.Sprint(sum>>1))
		def(&i.InstanceType, "e2-micro")
		def(&i.Image, "projects/debian-cloud/global/images/debian-12")
		def(&i.Account, "lab-project")
		def(&i.Network, "default")
	case "azure":
		def(&i.Region, "westeurope")
		def(&i.Zone, "1")
		def(&i.InstanceID, fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", uint32(sum), uint16(sum>>32), sum>>48&0xfff, sum>>20&0xfff, sum&0xffffffffffff))
		def(&i.InstanceType, "Standard_B1s")
		def(&i.Image, "debian-12")
		def(&i.Account, "00000000-0000-4000-8000-000000000001")
		def(&i.Network, "vnet")
	}
}

// text answers with a body, or 404 where it is empty.
func text(w http.ResponseWriter, body string) {
	if body == "" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprint(w, body)
}
