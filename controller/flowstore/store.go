package flowstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/duckdb/duckdb-go/v2"
)

// Config of a Store. Zero values take the defaults.
type Config struct {
	// Dir is where the database is; empty keeps it in memory.
	Dir string
	// Keep is how long flows are kept; 7 days unless given.
	Keep time.Duration
}

// Store is a database of flows.
type Store struct {
	cfg    Config
	db     *sql.DB
	writer *sql.Conn
	labels labelsets
	last   uint64 // id that was given

	mu       sync.Mutex
	progress map[account]reached
}

type account struct {
	host  string
	epoch uint64
}

type reached struct{ number, lost uint64 }

// memory is how much the database may take.
const memory = "1GB"

// schema of the database. Rows are wide and compress well: most columns have few
// values.
const schema = `
CREATE TABLE IF NOT EXISTS flows (
	id UBIGINT NOT NULL, time TIMESTAMP_MS NOT NULL, first TIMESTAMP_MS NOT NULL, last TIMESTAMP_MS NOT NULL,
	host VARCHAR NOT NULL, at_server BOOLEAN NOT NULL, counted BOOLEAN NOT NULL,
	client VARCHAR NOT NULL, client_labels UINTEGER NOT NULL, client_address VARCHAR NOT NULL, client_port USMALLINT NOT NULL,
	server VARCHAR NOT NULL, server_labels UINTEGER NOT NULL, server_address VARCHAR NOT NULL, server_port USMALLINT NOT NULL,
	protocol UTINYINT NOT NULL, process VARCHAR NOT NULL, pid UINTEGER NOT NULL, username VARCHAR NOT NULL, command VARCHAR NOT NULL, name VARCHAR NOT NULL,
	action VARCHAR NOT NULL, rule UBIGINT NOT NULL, begun BOOLEAN NOT NULL, ended BOOLEAN NOT NULL,
	sent_packets UBIGINT NOT NULL, sent_bytes UBIGINT NOT NULL, received_packets UBIGINT NOT NULL, received_bytes UBIGINT NOT NULL,
	rtt UINTEGER NOT NULL, retransmits UINTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS labels (id UINTEGER NOT NULL, key VARCHAR NOT NULL, value VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS progress (host VARCHAR NOT NULL, epoch UBIGINT NOT NULL, number UBIGINT NOT NULL, lost UBIGINT NOT NULL, seen TIMESTAMP_MS NOT NULL, PRIMARY KEY (host, epoch));`

// Open opens the database, or makes it.
func Open(ctx context.Context, cfg Config) (_ *Store, err error) {
	if cfg.Keep == 0 {
		cfg.Keep = 7 * 24 * time.Hour
	}
	path := ""
	if cfg.Dir != "" {
		path = filepath.Join(cfg.Dir, "flows.duckdb")
	}
	// Nothing is to be fetched from anywhere, whatever a query names.
	connector, err := duckdb.NewConnector(path+"?autoinstall_known_extensions=false&autoload_known_extensions=false&memory_limit="+memory, nil)
	if err != nil {
		return nil, fmt.Errorf("open the database of flows %s: %w", path, err)
	}
	s := &Store{cfg: cfg, db: sql.OpenDB(connector), progress: map[account]reached{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.writer, err = s.db.Conn(ctx); err != nil {
		return nil, fmt.Errorf("open the database of flows: %w", err)
	}
	if _, err := s.writer.ExecContext(ctx, schema); err != nil {
		return nil, fmt.Errorf("prepare the database of flows: %w", err)
	}
	if err := s.labels.load(ctx, s.writer); err != nil {
		return nil, err
	}
	if err := s.writer.QueryRowContext(ctx, "SELECT COALESCE(MAX(id), 0) FROM flows").Scan(&s.last); err != nil {
		return nil, fmt.Errorf("read the database of flows: %w", err)
	}
	return s, s.loadProgress(ctx)
}

func (s *Store) loadProgress(ctx context.Context) error {
	rows, err := s.writer.QueryContext(ctx, "SELECT host, epoch, number, lost FROM progress")
	if err != nil {
		return fmt.Errorf("read how far hosts are: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var a account
		var r reached
		if err := rows.Scan(&a.host, &a.epoch, &r.number, &r.lost); err != nil {
			return fmt.Errorf("read how far hosts are: %w", err)
		}
		s.progress[a] = r
	}
	return rows.Err()
}

// Close closes the database.
func (s *Store) Close() error {
	var err error
	if s.writer != nil {
		err = s.writer.Close()
	}
	return errors.Join(err, s.db.Close())
}

// Has says whether a batch is kept.
func (s *Store) Has(hostUID string, epoch, number uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.progress[account{hostUID, epoch}].number >= number
}

// Lost returns how many records hosts could not keep.
func (s *Store) Lost() (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.progress {
		n += r.lost
	}
	return n
}

// Append keeps batches, all or none; those it has are left out. It is called by
// one goroutine at a time.
func (s *Store) Append(ctx context.Context, batches []Batch) error {
	fresh, reachedNow := s.fresh(batches)
	if len(fresh) == 0 {
		return nil
	}
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("keep flows: %w", err)
	}
	last, sets := s.last, s.labels.len()
	if err = s.append(ctx, fresh, reachedNow); err != nil {
		err = errors.Join(err, tx.Rollback())
	} else {
		err = tx.Commit()
	}
	if err != nil {
		s.last = last
		s.labels.undo(sets)
		return fmt.Errorf("keep flows: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for a, r := range reachedNow {
		s.progress[a] = r
	}
	return nil
}

// fresh leaves out what is kept, and says how far the rest brings each host.
func (s *Store) fresh(batches []Batch) (out []*Batch, now map[account]reached) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now = map[account]reached{}
	for i := range batches {
		b := &batches[i]
		a := account{b.HostUID, b.Epoch}
		last, ok := now[a]
		if !ok {
			last = s.progress[a]
		}
		if b.Number <= last.number {
			continue
		}
		now[a] = reached{b.Number, max(b.Lost, last.lost)}
		out = append(out, b)
	}
	return out, now
}

func (s *Store) append(ctx context.Context, batches []*Batch, now map[account]reached) error {
	first := s.labels.len()
	if err := s.rows(batches); err != nil {
		return err
	}
	if err := s.labels.save(ctx, s.writer, first); err != nil {
		return err
	}
	for a, r := range now {
		if _, err := s.writer.ExecContext(ctx, "INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?)", a.host, a.epoch, r.number, r.lost, time.Now().UTC()); err != nil {
			return err
		}
	}
	return nil
}

// rows writes the flows; the transaction is that of the writer's connection.
func (s *Store) rows(batches []*Batch) error {
	return s.writer.Raw(func(raw any) error {
		a, err := duckdb.NewAppenderFromConn(raw.(driver.Conn), "", "flows")
		if err != nil {
			return err
		}
		row := make([]driver.Value, 0, 32)
		for _, b := range batches {
			for i := range b.Flows {
				f := &b.Flows[i]
				s.last++
				row = append(row[:0], s.last, f.Time.UTC(), f.First.UTC(), f.Last.UTC(), f.Host, f.AtServer, f.Counted,
					f.Client.Workload, s.labels.id(f.Client.Labels), f.Client.Address.String(), f.Client.Port,
					f.Server.Workload, s.labels.id(f.Server.Labels), f.Server.Address.String(), f.Server.Port,
					f.Protocol, f.Process, f.PID, f.User, f.Command, f.Name, string(f.Action), f.Rule, f.New, f.Ended,
					f.Sent.Packets, f.Sent.Bytes, f.Received.Packets, f.Received.Bytes, uint32(f.RTT.Microseconds()), f.Retransmits)
				if err := a.AppendRow(row...); err != nil {
					return errors.Join(err, a.Close())
				}
			}
		}
		return a.Close()
	})
}

// Prune forgets flows that are older than is asked for, and accounts of hosts
// that have not been heard of for as long.
func (s *Store) Prune(ctx context.Context, now time.Time) error {
	for _, table := range []string{"flows WHERE time", "progress WHERE seen"} {
		if _, err := s.db.ExecContext(ctx, "DELETE FROM "+table+" < ?", now.Add(-s.cfg.Keep).UTC()); err != nil {
			return fmt.Errorf("forget old flows: %w", err)
		}
	}
	return nil
}
