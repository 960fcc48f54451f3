package model

import "time"

// APIVersion is the version every resource carries.
const APIVersion = "weft/v1"

// Kind names a type of resource.
type Kind string

// The kinds of resources. KindHost and KindRelay are created by joining; of a
// Host a person may change only the spec. KindWorkload and KindAlert follow from
// what agents report and are read-only.
const (
	KindHost        Kind = "Host"
	KindWorkload    Kind = "Workload"
	KindAlert       Kind = "Alert"
	KindAlertRule   Kind = "AlertRule"
	KindProbe       Kind = "Probe"
	KindGroup       Kind = "Group"
	KindPolicy      Kind = "Policy"
	KindTap         Kind = "Tap"
	KindRelay       Kind = "Relay"
	KindJoinToken   Kind = "JoinToken"
	KindAccessToken Kind = "AccessToken"
	KindFlowQuery   Kind = "FlowQuery"
)

// TypeMeta says what a document is. It is embedded in every resource.
type TypeMeta struct {
	// APIVersion is weft/v1.
	APIVersion string `json:"apiVersion"`
	// Kind names the type of the resource.
	Kind Kind `json:"kind"`
}

// AnnotationClaims holds, on a host, the claims of the token it joined with.
const AnnotationClaims = "weft/claims"

// Metadata identifies a resource. Name is unique within its kind; UID is
// unique for ever, so a resource deleted and made again is another one.
type Metadata struct {
	// Name is unique within the kind: lower-case letters, digits, '-' and '.'.
	Name string `json:"name"`
	// UID is drawn when the resource is made, and never again.
	UID string `json:"uid,omitempty"`
	// Labels are key=value pairs by which it is found.
	Labels map[string]string `json:"labels,omitempty"`
	// Annotations are notes that nothing selects by. Those that begin with
	// "weft/" are the controller's own.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Generation grows by one at each change of the spec.
	Generation int64 `json:"generation,omitempty"`
	// ResourceVersion is the store's revision of the last change, in decimal.
	// A write that carries an older one is refused.
	ResourceVersion string `json:"resourceVersion,omitempty"`
	// CreationTimestamp is when it was made, in UTC.
	CreationTimestamp *time.Time `json:"creationTimestamp,omitempty"`
}

// Resource is any of the kinds above.
type Resource interface {
	GetKind() Kind
	Meta() *Metadata
	// Validate checks the user-settable part and returns nil or FieldErrors.
	Validate() error
}
