package api

import (
	"context"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"google.golang.org/protobuf/proto"

	"weft/model"
	"weft/wire"
	"weft/wire/flowwire"
	"weft/wire/wirepb"
)

// FlowTaker keeps batches of flows; see flowstore.Ingest.
type FlowTaker interface {
	Take(id wire.Identity, b *wirepb.FlowBatch, kept func(*wirepb.FlowAck), again func()) (taken bool, err error)
}

// FlowImport is what became of a batch.
type FlowImport struct {
	// Host is what its flows name as the host that reports.
	Host    string `json:"host"`
	Records int    `json:"records" doc:"In the batch."`
	Known   bool   `json:"known" doc:"The batch was kept before, and is not counted again."`
}

// ImportHost is before the name of what was imported, where flows have the name of a
// host; no host has a colon in its name.
const ImportHost = "import:"

type flowImportInput struct {
	Name    string `query:"name" required:"true" doc:"What is imported, as a file's name; flows have import:NAME as their host." minLength:"1" maxLength:"100"`
	Digest  string `query:"digest" required:"true" doc:"SHA-256 of what is imported, in hexadecimal: by it and the batch's number a batch that comes again is known." minLength:"64" maxLength:"64"`
	RawBody []byte `contentType:"application/x-protobuf"`
}

// importName says what may stand in the name of an import: what needs no quotes
// in a question about it.
func importName(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r)
}

// ImportName makes a name that an import may have of any text, as a file's name.
func ImportName(text string) string {
	name := strings.Map(func(r rune) rune {
		if importName(r) {
			return r
		}
		return '-'
	}, text)
	return strings.Trim(name[:min(len(name), 100)], "-_.")
}

// importEpoch is the epoch of all imports: batches are told apart by the digest.
const importEpoch = 1

func (a *API) registerFlowImport() {
	handle(a, huma.Operation{OperationID: "importFlows", Method: http.MethodPost, Path: "/api/v1/flows/import", Tags: []string{"Flows"}, Summary: "Keep flows that were read from a capture",
		Description: "The body is a FlowBatch of the agent protocol, with a number from 1 on. Answers when it is kept. The ends of its flows are addresses: whose they were when it was captured is not known."},
		func(ctx context.Context, in *flowImportInput) (*output[FlowImport], error) {
			if a.flows == nil || a.take == nil {
				return nil, problem(http.StatusNotFound, "this controller keeps no flows")
			}
			if digest, err := hex.DecodeString(in.Digest); err != nil || len(digest) != 32 {
				return nil, model.FieldErrors{{Field: "query.digest", Message: "is not the 64 hexadecimal digits of a SHA-256"}}
			}
			if ImportName(in.Name) != in.Name {
				return nil, model.FieldErrors{{Field: "query.name", Message: "has other characters than letters, digits, '-', '_' and '.', or begins or ends with one of those"}}
			}
			var batch wirepb.FlowBatch
			if err := proto.Unmarshal(in.RawBody, &batch); err != nil {
				return nil, problem(http.StatusBadRequest, "the body is no FlowBatch of wire/agent.proto: %v", err)
			}
			seen, err := onlySeen(&batch)
			if err != nil {
				return nil, problem(http.StatusUnprocessableEntity, "%v", err)
			}
			id := wire.Identity{Name: ImportHost + in.Name, UID: ImportHost + strings.ToLower(in.Digest)}
			out := FlowImport{Host: id.Name, Records: int(seen.Records), Known: a.flows.Has(id.UID, importEpoch, batch.Number)}
			kept := make(chan struct{})
			taken, err := a.take.Take(id, seen, func(*wirepb.FlowAck) { close(kept) }, func() {})
			if err != nil {
				return nil, problem(http.StatusUnprocessableEntity, "%v", err)
			}
			if !taken {
				return nil, problem(http.StatusServiceUnavailable, "too many flows wait to be kept; send the batch again in a moment")
			}
			ctx, cancel := context.WithTimeout(ctx, askWithin)
			defer cancel()
			select {
			case <-kept:
				return &output[FlowImport]{out}, nil
			case <-ctx.Done():
				return nil, problem(http.StatusServiceUnavailable, "the batch was not kept within %s; send it again: it will not count twice", askWithin)
			}
		})
}

// onlySeen leaves of a batch what packets show. What else a host would say of
// itself is nothing a file knows.
func onlySeen(b *wirepb.FlowBatch) (*wirepb.FlowBatch, error) {
	records, err := flowwire.Decode(b)
	if err != nil {
		return nil, err
	}
	for i := range records {
		r := &records[i]
		r.Workload, r.Process, r.Peer, r.Observed = "", flowwire.Process{}, 0, false
	}
	out, err := flowwire.Encode(time.Unix(0, b.UnixNanos), records)
	if err != nil {
		return nil, err
	}
	out.Epoch, out.Number = importEpoch, b.Number
	return out, nil
}
