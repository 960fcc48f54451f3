// Package wire is what the programs of weft say to one another: the agent
// protocol, identities, join tokens and the relay's preamble. It opens no
// socket; PROTOCOL.md beside it is the description for people.
package wire

//go:generate protoc -I .. --go_out=.. --go_opt=module=weft --connect-go_out=.. --connect-go_opt=module=weft ../wire/agent.proto

// Version and MinVersion are the newest and the oldest agent protocol that
// this build speaks. The two sides of a session use the smaller of their
// newest, and refuse one another where that is older than either's oldest.
const (
	Version    = 1
	MinVersion = 1
)
