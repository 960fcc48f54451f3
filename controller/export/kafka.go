package export

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"weft/controller/endpoint"
	"weft/controller/flowstore"
)

// Kafka produces flows to a topic: the value is a flow as JSON, the key its
// connection, so that all of a connection is in one partition.
type Kafka struct {
	// Brokers are HOST:PORT; the others are learnt from those.
	Brokers []string `yaml:"brokers"`
	Topic   string   `yaml:"topic"`
	// TLS and CAFile, which implies it, encrypt.
	TLS    bool   `yaml:"tls,omitempty"`
	CAFile string `yaml:"caFile,omitempty"`
	// Mechanism is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, with a user and a file that
	// holds the password.
	Mechanism    string `yaml:"mechanism,omitempty"`
	User         string `yaml:"user,omitempty"`
	PasswordFile string `yaml:"passwordFile,omitempty"`
}

func (k *Kafka) check() error {
	var errs []error
	if len(k.Brokers) == 0 {
		errs = append(errs, errors.New("brokers: give one HOST:PORT at least"))
	}
	for _, b := range k.Brokers {
		if err := hostPort(b); err != nil {
			errs = append(errs, fmt.Errorf("brokers: %w", err))
		}
	}
	if k.Topic == "" {
		errs = append(errs, errors.New("topic: give one"))
	}
	if _, err := endpoint.Authorities(k.CAFile); err != nil {
		errs = append(errs, err)
	}
	switch k.Mechanism {
	case "":
		if k.User != "" || k.PasswordFile != "" {
			errs = append(errs, errors.New("mechanism: give one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 with a user"))
		}
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
		if k.Mechanism == "PLAIN" && !k.encrypted() {
			errs = append(errs, errors.New("mechanism: PLAIN would show the password; give tls: true, or a SCRAM mechanism"))
		}
		if _, err := endpoint.Secret(k.PasswordFile); k.User == "" || err != nil {
			errs = append(errs, fmt.Errorf("user, passwordFile: give both (%v)", err))
		}
	default:
		errs = append(errs, fmt.Errorf("mechanism: %q is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512", k.Mechanism))
	}
	return errors.Join(errs...)
}

func (k *Kafka) encrypted() bool { return k.TLS || k.CAFile != "" }

// hostPort checks an address.
func hostPort(text string) error {
	host, port, err := net.SplitHostPort(text)
	if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || portErr != nil || n == 0 {
		return fmt.Errorf("%q is no HOST:PORT", text)
	}
	return nil
}

func (k *Kafka) sender(Deps) (sender, error) {
	options := []kgo.Opt{
		kgo.SeedBrokers(k.Brokers...), kgo.DefaultProduceTopic(k.Topic), kgo.ClientID("weft"), kgo.ProducerBatchCompression(kgo.SnappyCompression()),
		// All replicas that are in sync have what is acknowledged.
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.MaxBufferedRecords(2 * page), kgo.RecordDeliveryTimeout(sendIn / 2), kgo.RetryTimeout(sendIn / 2), kgo.DialTimeout(10 * time.Second),
	}
	if k.encrypted() {
		pool, err := endpoint.Authorities(k.CAFile)
		if err != nil {
			return nil, err
		}
		options = append(options, kgo.DialTLSConfig(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}))
	}
	if m := k.login(); m != nil {
		options = append(options, kgo.SASL(m))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return nil, fmt.Errorf("make a Kafka client: %w", err)
	}
	return &producer{client: client}, nil
}

// login reads the password each time it is needed.
func (k *Kafka) login() sasl.Mechanism {
	asScram := func(context.Context) (scram.Auth, error) {
		password, err := endpoint.Secret(k.PasswordFile)
		return scram.Auth{User: k.User, Pass: password}, err
	}
	switch k.Mechanism {
	case "PLAIN":
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			password, err := endpoint.Secret(k.PasswordFile)
			return plain.Auth{User: k.User, Pass: password}, err
		})
	case "SCRAM-SHA-256":
		return scram.Sha256(asScram)
	case "SCRAM-SHA-512":
		return scram.Sha512(asScram)
	}
	return nil
}

type producer struct {
	client  *kgo.Client
	refused uint64
}

func (p *producer) refusals() uint64 { return p.refused }

func (p *producer) send(ctx context.Context, flows []flowstore.Flow) (int, error) {
	records := make([]*kgo.Record, len(flows))
	for i := range flows {
		value, err := json.Marshal(&flows[i])
		if err != nil {
			return 0, fmt.Errorf("encode flow %d: %w", flows[i].ID, err)
		}
		records[i] = &kgo.Record{Key: connectionKey(&flows[i]), Value: value, Timestamp: flows[i].Time}
	}
	failed := map[*kgo.Record]error{}
	for _, r := range p.client.ProduceSync(ctx, records...) {
		if r.Err != nil {
			failed[r.Record] = r.Err
		}
	}
	for i, r := range records {
		switch err := failed[r]; {
		case errors.Is(err, kerr.MessageTooLarge):
			p.refused++
		case err != nil:
			return i, fmt.Errorf("produce to Kafka: %w", err)
		}
	}
	return len(flows), nil
}

func (p *producer) close() { p.client.Close() }

// connectionKey is what all reports of a connection share, as far as ends know.
func connectionKey(f *flowstore.Flow) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d %s %s", f.Protocol, netip.AddrPortFrom(f.Client.Address, f.Client.Port), netip.AddrPortFrom(f.Server.Address, f.Server.Port))
	return b.Bytes()
}
