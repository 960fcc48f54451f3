package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"weft/controller/store"
)

type auditInput struct {
	Limit int64 `query:"limit" minimum:"1" maximum:"10000" default:"100" doc:"The newest so many."`
}

// AuditLog is who changed what, the newest first.
type AuditLog struct {
	Items []store.AuditEntry `json:"items" nullable:"false"`
}

func (a *API) registerAudit() {
	handle(a, huma.Operation{OperationID: "listAudit", Method: http.MethodGet, Path: "/api/v1/audit", Tags: []string{"Controller"}, Summary: "Who changed what, the newest first"},
		func(ctx context.Context, in *auditInput) (*output[AuditLog], error) {
			entries, err := a.store.Audit(ctx, min(in.Limit, maxAudit))
			if err != nil {
				return nil, err
			}
			return &output[AuditLog]{AuditLog{Items: entries}}, nil
		})
}
