package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"weft/cmd/weft/capturefile"
	"weft/cmd/weft/conversations"
	"weft/cmd/weft/show"
	"weft/controller/api"
	"weft/controller/api/client"
	"weft/controller/flowstore"
	"weft/internal/application"
	"weft/internal/geoip"
	"weft/model"
	"weft/packet"
	"weft/wire/flowwire"
)

// flowImportFlags are the flags of `weft flows import`.
type flowImportFlags struct {
	as     string
	geoip  []string
	unwrap bool
	dryRun bool
	output string
	top    int
}

func newFlowsImportCommand(o *options) *cobra.Command {
	var f flowImportFlags
	c := &cobra.Command{
		Use:   "import FILE|-",
		Short: "Show the conversations of a capture file, and have the controller keep them",
		Long: `Show the conversations of a capture file, and have the controller keep them.

FILE is pcap or pcapng, plain or compressed with gzip. Packets of one connection
are one conversation, with the name by which the server was looked up or called,
and the protocol that its first bytes speak. SENT and RECEIVED are bytes of
frames, as captured; -o json has those of IP packets too, and a Community ID.

Where a controller is known it keeps the conversations as flows, whose host is
import:NAME. A file that is imported again is not counted twice. Without one, or
with --dry-run, they are only shown.`,
		Example: `  weft flows import capture.pcap
  weft flows import capture.pcapng --dry-run --top 0 -o csv > conversations.csv
  weft flows import mirror.pcap --unwrap --as branch-office
  weft flows import web.pcap.gz --geoip GeoLite2-Country.mmdb,GeoLite2-ASN.mmdb
  weft flows --where host=import:branch-office --group-by server-address,port`,
		Args: exactly(1, "a FILE, or - for standard input"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(f.output, "table", "json", "csv"); err != nil {
				return err
			}
			if f.top < 0 {
				return usage(errors.New("--top takes a number from 0 on; 0 shows all"))
			}
			if !cmd.Flags().Changed("top") && f.output != "table" {
				f.top = 0
			}
			return f.run(cmd, o, args[0])
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{"pcap", "pcapng", "cap", "gz"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
	flags := c.Flags()
	flags.StringVar(&f.as, "as", "", "name of the import; that of the file unless given")
	flags.StringSliceVar(&f.geoip, "geoip", nil, "MMDB files that say where addresses are or whose, as FILE,FILE")
	flags.BoolVar(&f.unwrap, "unwrap", false, "look into GRE, ERSPAN, VXLAN, GENEVE and IP in IP, as mirrors use them")
	flags.BoolVar(&f.dryRun, "dry-run", false, "only show, and keep nothing")
	flags.IntVar(&f.top, "top", 20, "how many conversations are shown, those with the most bytes first; 0 is all, as with -o json and csv")
	flags.StringVarP(&f.output, "output", "o", "table", "table|json|csv")
	c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "csv"}, cobra.ShellCompDirectiveNoFileComp)) //nolint:errcheck // the flag exists
	c.RegisterFlagCompletionFunc("geoip", cobra.FixedCompletions([]string{"mmdb"}, cobra.ShellCompDirectiveFilterFileExt))               //nolint:errcheck // the flag exists
	return c
}

func (f *flowImportFlags) run(cmd *cobra.Command, o *options, file string) error {
	name, err := f.name(file)
	if err != nil {
		return err
	}
	db, err := geoip.Open(f.geoip...)
	if err != nil {
		return err
	}
	var cl *client.Client
	if !f.dryRun {
		if cl, err = o.connect(); err != nil && !errors.Is(err, errNoController) {
			return err
		}
	}
	s, digest, fault := f.read(cmd, file)
	if s == nil {
		return fault
	}
	if len(f.geoip) > 0 {
		s.Locate(db)
	}
	if err := f.show(cmd, s); err != nil {
		return err
	}
	warnCapture(cmd, file, s)
	if fault != nil {
		// What was read until there is shown, and not kept: a file that is mended is
		// another, and would count again.
		return fmt.Errorf("%w; what came before it is shown, and nothing was kept", fault)
	}
	switch {
	case f.dryRun:
		return nil
	case cl == nil:
		fmt.Fprintln(cmd.ErrOrStderr(), "no controller is known, so that nothing was kept")
		return nil
	}
	return keepFlows(cmd, cl, name, digest, s)
}

// name is the import's.
func (f *flowImportFlags) name(file string) (string, error) {
	switch {
	case f.as != "":
		if name := api.ImportName(f.as); name != f.as {
			return "", usage(fmt.Errorf("--as %q: take letters, digits, '-', '_' and '.', 100 at most, as %q", f.as, cmp.Or(name, "capture-1")))
		}
		return f.as, nil
	case file == "-":
		return "stdin", nil
	}
	return cmp.Or(api.ImportName(filepath.Base(file)), "capture"), nil
}

// read reads the file, and its digest. Summary is nil where it is no capture.
func (f *flowImportFlags) read(cmd *cobra.Command, file string) (*conversations.Summary, string, error) {
	in, size := cmd.InOrStdin(), int64(0)
	if file != "-" {
		open, err := os.Open(file)
		if err != nil {
			return nil, "", err
		}
		defer open.Close()
		if info, err := open.Stat(); err == nil && info.Mode().IsRegular() {
			size = info.Size()
		}
		in = open
	}
	hash := sha256.New()
	counted := &readSoFar{r: io.TeeReader(in, hash)}
	r, err := capturefile.NewReader(counted)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", file, err)
	}
	bar := newProgress(cmd.ErrOrStderr())
	s, err := conversations.Read(r, conversations.Options{Unwrap: f.unwrap, Progress: func(packets int, _ int64) { bar.say(packets, counted.n, size) }})
	bar.clear()
	if err == nil {
		_, err = io.Copy(io.Discard, counted) // what may follow in the last piece
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return s, hex.EncodeToString(hash.Sum(nil)), err
}

type readSoFar struct {
	r io.Reader
	n int64
}

func (c *readSoFar) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// progress says on a terminal how far a long reading is.
type progress struct {
	out   io.Writer // nil: nobody looks
	begun time.Time
	last  time.Time
	said  bool
}

// Progress is said of what takes longer than a moment, and not too often.
const (
	progressAfter = time.Second
	progressEach  = 200 * time.Millisecond
)

func newProgress(w io.Writer) *progress {
	p := &progress{begun: time.Now()}
	if f, ok := w.(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			p.out = f
		}
	}
	return p
}

func (p *progress) say(packets int, bytes, size int64) {
	now := time.Now()
	if p.out == nil || now.Sub(p.begun) < progressAfter || now.Sub(p.last) < progressEach {
		return
	}
	of := ""
	if size > 0 {
		of = fmt.Sprintf(" of %s", show.Bytes(uint64(size)))
	}
	fmt.Fprintf(p.out, "\r%s%s, %d packets\x1b[K", show.Bytes(uint64(bytes)), of, packets)
	p.last, p.said = now, true
}

func (p *progress) clear() {
	if p.said {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// warnCapture says what of a file is not in the figures, or less in them than
// there was.
func warnCapture(cmd *cobra.Command, file string, s *conversations.Summary) {
	warn := func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), "warning: "+format+"\n", args...) }
	for _, link := range slices.Sorted(maps.Keys(s.Unread)) {
		warn("%s: %d packets have the link type %s, which is not read", file, s.Unread[link], link)
	}
	if s.Cut > 0 {
		warn("%s: the capture kept only the beginning of %d packets, the first of them packet %d; bytes are those of the wire, names may be missing", file, s.Cut, s.FirstCut)
	}
	if s.Counters.Cut > 0 {
		warn("%s: %d packets end before their ports do, and are in conversations without any", file, s.Counters.Cut)
	}
	if s.Counters.Orphans > 0 {
		warn("%s: %d fragments come without the first of their datagram, and are in conversations without ports", file, s.Counters.Orphans)
	}
	if s.Counters.Other > 0 && len(s.Conversations) == 0 {
		warn("%s: none of its %d packets is IP", file, s.Packets)
	}
	if s.Backwards > s.Packets/10 {
		warn("%s: %d of %d packets are older than the one before; sort them: reordercap FILE OUT", file, s.Backwards, s.Packets)
	}
}

func (f *flowImportFlags) show(cmd *cobra.Command, s *conversations.Summary) error {
	list := s.Conversations
	if f.top > 0 && len(list) > f.top {
		list = list[:f.top]
	}
	switch f.output {
	case "json":
		return show.JSON(cmd.OutOrStdout(), slices.Concat([]conversations.Conversation{}, list)) // [] where there are none
	case "csv":
		return writeConversationsCSV(cmd.OutOrStdout(), list)
	}
	if len(list) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "no conversations")
		return nil
	}
	t := show.Table{Columns: []show.Column{{Title: "CLIENT", Flexible: true}, {Title: "SERVER", Flexible: true}, {Title: "SERVICE"}, {Title: "SPEAKS"}, {Title: "PACKETS"}, {Title: "SENT"}, {Title: "RECEIVED"}, {Title: "RTT"}}}
	if len(f.geoip) > 0 {
		t.Columns = append(t.Columns, show.Column{Title: "WHERE", Flexible: true})
	}
	t.Width, _ = screen(cmd)
	for i := range list {
		c := &list[i]
		row := []string{c.Client.Addr().String(), serverName(c), flowService(&flowstore.Flow{Protocol: c.Protocol, Server: flowstore.End{Port: c.Server.Port()}}), string(c.Application.Protocol), show.Number(c.Sent.Packets + c.Received.Packets), show.Bytes(c.Sent.WireBytes), show.Bytes(c.Received.WireBytes), rttText(c.RTT)}
		if len(f.geoip) > 0 {
			row = append(row, placeText(c.ServerPlace))
		}
		t.Row(row...)
	}
	if err := t.Flush(cmd.OutOrStdout()); err != nil {
		return err
	}
	if n := len(s.Conversations) - len(list); n > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "and %d more; --top 0 shows all\n", n)
	}
	return nil
}

// serverName is what the client called the server; of DNS it is the server that
// counts, not what it was asked about.
func serverName(c *conversations.Conversation) string {
	if c.Application.Protocol != application.DNS && c.Application.Host != "" {
		return c.Application.Host
	}
	return cmp.Or(c.Name, c.Server.Addr().String())
}

func placeText(p geoip.Place) string {
	out := strings.TrimSpace(p.Country + " " + p.City)
	if p.AS != 0 {
		out = strings.TrimSpace(out + " AS" + strconv.Itoa(int(p.AS)))
	}
	return out
}

func writeConversationsCSV(out io.Writer, list []conversations.Conversation) error {
	w := csv.NewWriter(out)
	if err := w.Write([]string{"first", "last", "client_address", "client_port", "server_address", "server_port", "protocol", "application", "name", "alpn", "method", "path", "status", "latency_us", "software", "community_id",
		"sent_packets", "sent_bytes", "sent_wire_bytes", "received_packets", "received_bytes", "received_wire_bytes", "rtt_us", "retransmits", "flags", "ended", "client_country", "client_as", "server_country", "server_as"}); err != nil {
		return err
	}
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	place := func(p geoip.Place) (country, as string) {
		if p.AS != 0 {
			as = number(uint64(p.AS))
		}
		return p.Country, as
	}
	for i := range list {
		c := &list[i]
		a := &c.Application
		clientCountry, clientAS := place(c.ClientPlace)
		serverCountry, serverAS := place(c.ServerPlace)
		if err := w.Write([]string{c.First.UTC().Format(time.RFC3339Nano), c.Last.UTC().Format(time.RFC3339Nano), c.Client.Addr().String(), number(uint64(c.Client.Port())), c.Server.Addr().String(), number(uint64(c.Server.Port())),
			number(uint64(c.Protocol)), string(a.Protocol), cmp.Or(a.Host, c.Name), a.ALPN, a.Method, a.Path, strconv.Itoa(a.Status), number(uint64(a.Latency.Microseconds())), a.Software, c.CommunityID,
			number(c.Sent.Packets), number(c.Sent.Bytes), number(c.Sent.WireBytes), number(c.Received.Packets), number(c.Received.Bytes), number(c.Received.WireBytes),
			number(uint64(c.RTT.Microseconds())), number(uint64(c.Retransmits)), c.Flags, strconv.FormatBool(c.Ended), clientCountry, clientAS, serverCountry, serverAS}); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}

// importBatch is how many records go in one request: far less than its body may
// have.
const importBatch = 4000

// keepFlows has the controller keep the conversations.
func keepFlows(cmd *cobra.Command, cl *client.Client, name, digest string, s *conversations.Summary) error {
	// Batches are known by their numbers: the same file must give the same ones.
	now, fresh, host := time.Now(), 0, api.ImportHost+name
	var number uint64
	for list := range slices.Chunk(s.Conversations, importBatch) {
		number++
		records := make([]flowwire.Record, len(list))
		for i := range list {
			records[i] = recordOf(&list[i])
		}
		batch, err := flowwire.Encode(now, records)
		if err != nil {
			return err
		}
		batch.Number = number
		answer, err := cl.ImportFlows(cmd.Context(), name, digest, batch)
		if err != nil {
			return fmt.Errorf("keep conversations %d to %d: %w", (number-1)*importBatch+1, (number-1)*importBatch+uint64(len(list)), explainProblem(err))
		}
		if !answer.Known {
			fresh += answer.Records
		}
	}
	switch {
	case number == 0:
		fmt.Fprintln(cmd.ErrOrStderr(), "nothing to keep")
	case fresh == 0:
		fmt.Fprintln(cmd.ErrOrStderr(), "this file was imported before; nothing was counted twice")
	default:
		fmt.Fprintf(cmd.ErrOrStderr(), "kept %d conversations; ask with: weft flows --where host=%s\n", fresh, host)
	}
	return nil
}

func recordOf(c *conversations.Conversation) flowwire.Record {
	return flowwire.Record{
		Name: cmp.Or(c.Name, c.Application.Host), Local: c.Client, Remote: c.Server, Protocol: c.Protocol, Egress: true, New: true, Ended: c.Ended, Action: model.ActionAllow,
		First: c.First, Last: c.Last, Sent: flowwire.Count{Packets: c.Sent.Packets, Bytes: c.Sent.Bytes}, Received: flowwire.Count{Packets: c.Received.Packets, Bytes: c.Received.Bytes},
		RTT: c.RTT, Retransmits: c.Retransmits, TCPState: packet.TCPStateSeen(c.SentFlags, c.ReceivedFlags), SentFlags: c.SentFlags, ReceivedFlags: c.ReceivedFlags,
	}
}
