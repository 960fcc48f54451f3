package flowstore

import "fmt"

// kind is the type of a column.
type kind uint8

const (
	u8 kind = iota
	u16
	u32
	u64
	text // UTF-8
	word // text of which few differ
)

// column of a table. There are no others than numbers without a sign and text:
// times are milliseconds since 1970, and truth is 1.
type column struct {
	name string
	kind kind
}

// table says what a table holds. All have a column part: what is in one part of
// them is forgotten together.
type table struct {
	name    string
	columns []column
	order   string // of rows, where the database wants to know
}

// granularity of what is kept: reports, or sums of them.
type granularity int

const (
	reports granularity = iota
	minutes
	hours
)

// span of each granularity, in milliseconds.
var spans = [...]uint64{reports: 1, minutes: 60_000, hours: 3_600_000}

// dimensions are what sums differ in: what can be asked of reports, without what
// makes each connection another.
var dimensions = []column{
	{"host", word}, {"reporter", u8}, {"client", word}, {"client_labels", word}, {"client_address", word}, {"server", word}, {"server_labels", word}, {"server_address", word}, {"server_port", u16},
	{"protocol", u8}, {"process", word}, {"username", word}, {"command", word}, {"name", word}, {"action", word}, {"rule", word},
	{"application", word}, {"server_name", word}, {"method", word}, {"path", word}, {"status", u16},
	{"client_place", word}, {"server_place", word}, {"drop_reason", word},
}

var amounts = []column{{"sent_packets", u64}, {"sent_bytes", u64}, {"received_packets", u64}, {"received_bytes", u64}}

// tables of flows by granularity. Of a report, idle is from the connection's last
// packet to the report, in seconds and what is left over (of which LZ4 makes less
// than of one number), and lasted from when it began to that packet. id grows with each row that is kept; of sums,
// all rows that were made at once have the same, and upto is the last id of the
// finer table that they hold.
var tables = [...]*table{
	reports: {"reports", columns([]column{{"part", u32}, {"id", u64}, {"time", u64}, {"idle", u64}, {"idle_millis", u16}, {"lasted", u64}, {"counted", u8}}, dimensions,
		[]column{{"client_port", u16}, {"pid", u32}, {"dialled", word}, {"tcp_state", word}, {"client_flags", word}, {"server_flags", word}, {"begun", u8}, {"ended", u8}}, amounts, []column{{"rtt", u32}, {"retransmits", u32}, {"drops", u32}, {"latency", u32}, {"alpn", word}, {"software", word}}), "id"},
	minutes: {"minutes", sumColumns, "id, time"},
	hours:   {"hours", sumColumns, "id, time"},
}

var sumColumns = columns([]column{{"part", u32}, {"id", u64}, {"time", u64}}, dimensions, []column{{"connections", u64}}, amounts, []column{{"rtts", u64}, {"timed", u64}, {"retransmits", u64}, {"latencies", u64}, {"answered", u64}, {"first", u64}, {"last", u64}, {"drops", u64}})

var (
	// progress says how far hosts are. A part begins with all of them. Reports up to
	// the id are kept: what is written last makes what was written before it count.
	progress = &table{"progress", []column{{"part", u32}, {"id", u64}, {"host", text}, {"epoch", u64}, {"number", u64}, {"lost", u64}, {"seen", u64}}, "id"}
	// rolls says the same of sums.
	rolls = &table{"rolls", []column{{"part", u32}, {"granularity", u8}, {"id", u64}, {"upto", u64}}, "id"}
	// fences are ranges of ids that do not count; see decision 81.
	fences = &table{"fences", []column{{"part", u32}, {"granularity", u8}, {"above", u64}, {"upto", u64}}, "above"}
)

// aheadMost is how much later than its report a last packet can be, in
// milliseconds: a reading of connections takes a while, and has the time at which it
// began. idle is that much more, for there are no numbers with a sign.
const aheadMost = 60_000

// lastSaid and firstSaid are when the last packet and the first of a report were.
var (
	lastSaid  = fmt.Sprintf("time + %d - 1000 * idle - idle_millis", aheadMost)
	firstSaid = lastSaid + " - lasted"
)

func columns(lists ...[]column) (out []column) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}
