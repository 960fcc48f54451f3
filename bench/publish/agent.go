package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"weft/model"
	"weft/wire"
	"weft/wire/policywire"
	"weft/wire/wirepb"
	"weft/wire/wirepb/wirepbconnect"
)

// agent opens a session as a host and reports its workloads; what comes after
// that, it answers until the connection ends.
func (c *fleet) agent(ctx context.Context, n int, h *model.Host) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	der, err := c.authority.Sign(csr, identityOf(h))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.authority.Bundle())
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}}
	client := wirepbconnect.NewControllerClient(&http.Client{Transport: transport}, "https://"+c.address)
	st := client.Session(ctx)
	if err := st.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Hello{Hello: &wirepb.Hello{Protocol: wire.Version, MinProtocol: wire.MinVersion, Version: "bench", Instance: "i", BootId: "b"}}}); err != nil {
		return err
	}
	first, err := st.Receive()
	if err != nil {
		return err
	}
	if first.GetWelcome() == nil {
		return errors.New("the first message is no Welcome")
	}
	a := &agent{fleet: c, stream: st}
	if err := a.send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Facts{Facts: facts(n)}}); err != nil {
		return err
	}
	if err := a.send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Workloads{Workloads: workloads(n)}}); err != nil {
		return err
	}
	c.running.Go(a.answer)
	return nil
}

// facts put every host into one network, so that all addresses are in the
// fleet's book.
func facts(n int) *wirepb.HostFacts {
	return &wirepb.HostFacts{Os: "Linux", Interfaces: []*wirepb.Interface{{Name: "eth0", Uplink: true, Addresses: []string{fmt.Sprintf("10.200.%d.%d/8", n/250, n%250+1)}}}}
}

// workloads are containers of a part of the fleet: a hundredth of the hosts.
func workloads(n int) *wirepb.WorkloadUpdate {
	u := &wirepb.WorkloadUpdate{Full: true}
	for i := range perHost {
		role := fmt.Sprintf("r%d", i%5)
		if n%100 == 0 && i == perHost-1 {
			role = "monitor" // which every host's rules name
		}
		all := n*perHost + i
		u.Upserts = append(u.Upserts, &wirepb.Workload{Id: fmt.Sprintf("c%d", i), Kind: "container", Name: fmt.Sprintf("c%d", i),
			Labels:    map[string]string{"app": "all", "part": fmt.Sprintf("p%d", n%100), "role": role},
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", all>>16, all>>8&255, all&255)}})
	}
	return u
}

type agent struct {
	*fleet
	sending sync.Mutex
	stream  *connect.BidiStreamForClient[wirepb.AgentMessage, wirepb.ControllerMessage]
	policy  map[string]bool // keys of rulesets
	size    int             // of what came since the last acknowledgement
}

func (a *agent) send(m *wirepb.AgentMessage) error {
	a.sending.Lock()
	defer a.sending.Unlock()
	return a.stream.Send(m)
}

// answer takes sections apart as an agent does and acknowledges them. A change of
// policy is in force when subjects name the rulesets that have come.
func (a *agent) answer() {
	for {
		m, err := a.stream.Receive()
		if err != nil {
			return
		}
		s := m.GetSection()
		if s == nil {
			continue
		}
		st := &wirepb.SectionStatus{Name: s.Name, Revision: s.Revision, Digest: s.Digest}
		if err := a.apply(s); err != nil {
			st.Error = err.Error()
		}
		if err := a.send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Section{Section: st}}); err != nil {
			return
		}
		if s.GetPolicy() != nil || s.GetIdentity() != nil {
			a.size += proto.Size(s)
		}
		if s.GetIdentity() != nil {
			a.say(uint32(a.size))
			a.size = 0
		}
	}
}

func (a *agent) apply(s *wirepb.Section) error {
	if p := s.GetPolicy(); p != nil {
		a.policy = map[string]bool{}
		for _, r := range p.Rulesets {
			if _, err := policywire.Decode(r); err != nil {
				return err
			}
			a.policy[r.Key] = true
		}
	}
	if who := s.GetIdentity(); who != nil {
		for _, x := range who.Subjects {
			if !a.policy[x.Ruleset] {
				return fmt.Errorf("ruleset %s has not come", x.Ruleset)
			}
		}
		for _, x := range who.Addresses {
			if _, err := policywire.DecodeAddress(x.Address); err != nil {
				return err
			}
		}
	}
	return nil
}
