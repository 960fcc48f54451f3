package model

import (
	"fmt"
	"strings"
)

// KindInfo says how a kind is named and made.
type KindInfo struct {
	Kind   Kind
	Plural string // in URLs and on the command line
	Short  string // abbreviation on the command line
	New    func() Resource
	// Observed kinds follow from what agents report and are never written by people.
	Observed bool
	// Joined kinds are created by joining; people may change the spec or delete.
	Joined bool
}

// Kinds lists every kind in the order in which a whole set is applied.
var Kinds = []KindInfo{
	{Kind: KindJoinToken, Plural: "jointokens", Short: "jt", New: func() Resource { return &JoinToken{TypeMeta: typeMeta(KindJoinToken)} }},
	{Kind: KindAccessToken, Plural: "accesstokens", Short: "at", New: func() Resource { return &AccessToken{TypeMeta: typeMeta(KindAccessToken)} }},
	{Kind: KindRelay, Plural: "relays", Short: "rl", Joined: true, New: func() Resource { return &Relay{TypeMeta: typeMeta(KindRelay)} }},
	{Kind: KindHost, Plural: "hosts", Short: "h", Joined: true, New: func() Resource { return &Host{TypeMeta: typeMeta(KindHost)} }},
	{Kind: KindWorkload, Plural: "workloads", Short: "wl", Observed: true, New: func() Resource { return &Workload{TypeMeta: typeMeta(KindWorkload)} }},
	{Kind: KindAlert, Plural: "alerts", Short: "al", Observed: true, New: func() Resource { return &Alert{TypeMeta: typeMeta(KindAlert)} }},
	{Kind: KindAlertRule, Plural: "alertrules", Short: "ar", New: func() Resource { return &AlertRule{TypeMeta: typeMeta(KindAlertRule)} }},
	{Kind: KindProbe, Plural: "probes", Short: "pr", New: func() Resource { return &Probe{TypeMeta: typeMeta(KindProbe)} }},
	{Kind: KindGroup, Plural: "groups", Short: "g", New: func() Resource { return &Group{TypeMeta: typeMeta(KindGroup)} }},
	{Kind: KindPolicy, Plural: "policies", Short: "pol", New: func() Resource { return &Policy{TypeMeta: typeMeta(KindPolicy)} }},
	{Kind: KindTap, Plural: "taps", Short: "t", New: func() Resource { return &Tap{TypeMeta: typeMeta(KindTap)} }},
	{Kind: KindFlowQuery, Plural: "flowqueries", Short: "fq", New: func() Resource { return &FlowQuery{TypeMeta: typeMeta(KindFlowQuery)} }},
}

func typeMeta(k Kind) TypeMeta { return TypeMeta{APIVersion: APIVersion, Kind: k} }

// FindKind resolves a kind by its name, its plural, its singular in lower case
// or its abbreviation.
func FindKind(name string) (KindInfo, error) {
	for _, info := range Kinds {
		if name == string(info.Kind) || name == info.Plural || name == info.Short || name == strings.ToLower(string(info.Kind)) {
			return info, nil
		}
	}
	plurals := make([]string, len(Kinds))
	for i, info := range Kinds {
		plurals[i] = info.Plural
	}
	return KindInfo{}, fmt.Errorf("no kind %q%s; the kinds are %s", name, suggest(name, plurals), strings.Join(plurals, ", "))
}

// MustKind is FindKind for the constants of this package.
func MustKind(k Kind) KindInfo {
	info, err := FindKind(string(k))
	if err != nil {
		panic(err)
	}
	return info
}

// GetKind returns the kind of the document.
func (t TypeMeta) GetKind() Kind { return t.Kind }

// Ref names a resource as "tap/web-to-ids".
func Ref(r Resource) string {
	return strings.ToLower(string(r.GetKind())) + "/" + r.Meta().Name
}

// Meta returns the metadata, to read or to change.
func (r *Host) Meta() *Metadata        { return &r.Metadata }
func (r *Workload) Meta() *Metadata    { return &r.Metadata }
func (r *Alert) Meta() *Metadata       { return &r.Metadata }
func (r *AlertRule) Meta() *Metadata   { return &r.Metadata }
func (r *Probe) Meta() *Metadata       { return &r.Metadata }
func (r *Group) Meta() *Metadata       { return &r.Metadata }
func (r *Policy) Meta() *Metadata      { return &r.Metadata }
func (r *Tap) Meta() *Metadata         { return &r.Metadata }
func (r *Relay) Meta() *Metadata       { return &r.Metadata }
func (r *JoinToken) Meta() *Metadata   { return &r.Metadata }
func (r *AccessToken) Meta() *Metadata { return &r.Metadata }
func (r *FlowQuery) Meta() *Metadata   { return &r.Metadata }
