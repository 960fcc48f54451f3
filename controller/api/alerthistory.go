package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"weft/controller/notify"
)

// AlertHistory is when alerts were raised and were over, the newest first.
type AlertHistory struct {
	Items []notify.Change `json:"items" nullable:"false"`
}

type alertHistoryInput struct {
	Limit int    `query:"limit" minimum:"1" maximum:"10000" default:"100"`
	Host  string `query:"host" doc:"Only of this host."`
}

func (a *API) registerAlertHistory() {
	handle(a, huma.Operation{OperationID: "listAlertHistory", Method: http.MethodGet, Path: "/api/v1/alerthistory", Tags: []string{"Alert"}, Summary: "When alerts were raised and were over, the newest first"},
		func(_ context.Context, in *alertHistoryInput) (*output[AlertHistory], error) {
			if a.history == nil {
				return nil, problem(http.StatusNotFound, "this controller keeps no history of alerts")
			}
			const all = 1 << 30
			out := AlertHistory{Items: []notify.Change{}}
			for _, c := range a.history(all) {
				if len(out.Items) < in.Limit && (in.Host == "" || c.Alert.Host == in.Host) {
					out.Items = append(out.Items, c)
				}
			}
			return &output[AlertHistory]{out}, nil
		})
}
