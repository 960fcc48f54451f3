package model

import "time"

// Relay is a public rendezvous that agents dial out to. Joining creates it.
type Relay struct {
	TypeMeta
	Metadata Metadata    `json:"metadata"`
	Spec     RelaySpec   `json:"spec,omitzero"`
	Status   RelayStatus `json:"status,omitzero"`
}

// RelaySpec is said by the relay when it joins; a person may revoke it.
type RelaySpec struct {
	// Addresses are "HOST:PORT" where agents reach it over TCP.
	Addresses []string `json:"addresses,omitempty"`
	// Revoked refuses the relay's certificate everywhere and for good.
	Revoked bool `json:"revoked,omitempty"`
}

// RelayStatus is what the relay reports.
type RelayStatus struct {
	State    HostState  `json:"state,omitempty"`
	LastSeen *time.Time `json:"lastSeen,omitempty"`
	Version  string     `json:"version,omitempty"`
	Sessions int        `json:"sessions"`
	Streams  int        `json:"streams"`
	Bytes    uint64     `json:"bytes"`
}
