package model

import "time"

// JoinToken lets machines (or relays) join, a limited number of times and for
// a limited time. The secret is shown once, in the answer that creates it.
type JoinToken struct {
	TypeMeta
	Metadata Metadata        `json:"metadata"`
	Spec     JoinTokenSpec   `json:"spec,omitzero"`
	Status   JoinTokenStatus `json:"status,omitzero"`
}

// Role says what a joining program may become.
type Role string

// What a join token admits.
const (
	RoleHost  Role = "host"
	RoleRelay Role = "relay"
)

// JoinTokenSpec bounds a token.
type JoinTokenSpec struct {
	Role Role `json:"role,omitempty"` // host unless given
	// Uses is how many times it may be used; 1 unless given.
	Uses int `json:"uses,omitempty"`
	// TTL is how long it lives from its creation, as a Go duration; 1h unless given.
	TTL string `json:"ttl,omitempty"`
	// Labels are given to every host that joins with it.
	Labels map[string]string `json:"labels,omitempty"`
	// Claims are the keys of labels that the agents of these hosts may claim: keys,
	// beginnings with a * behind them ("app.*"), or "any" or "none" alone. Unless
	// given, the controller's --claims count. A host's own spec.claims go over it.
	Claims Claims `json:"claims,omitempty"`
}

// JoinTokenStatus counts its use.
type JoinTokenStatus struct {
	Used    int        `json:"used"`
	Expires *time.Time `json:"expires,omitempty"`
	// Token is the whole secret; present only in the answer to its creation.
	Token string `json:"token,omitempty"`
}

// AccessToken lets a person or a program use the API.
type AccessToken struct {
	TypeMeta
	Metadata Metadata          `json:"metadata"`
	Spec     AccessTokenSpec   `json:"spec,omitzero"`
	Status   AccessTokenStatus `json:"status,omitzero"`
}

// AccessRole says what the API allows.
type AccessRole string

// The roles of the API.
const (
	AccessAdmin  AccessRole = "admin"
	AccessViewer AccessRole = "viewer"
)

// AccessTokenSpec bounds a token for the API.
type AccessTokenSpec struct {
	Role AccessRole `json:"role,omitempty"` // viewer unless given
	TTL  string     `json:"ttl,omitempty"`  // Go duration; empty lives until deleted
}

// AccessTokenStatus shows the token once.
type AccessTokenStatus struct {
	Expires *time.Time `json:"expires,omitempty"`
	Token   string     `json:"token,omitempty"`
}
