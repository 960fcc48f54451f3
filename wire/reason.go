package wire

// HeaderReason is the metadata of a refusal that says why, for programs; the
// message beside it is for people.
const HeaderReason = "Weft-Reason"

// The reasons.
const (
	ReasonToken         = "token"          // unknown or damaged join token
	ReasonTokenExpired  = "token-expired"  //
	ReasonTokenUsedUp   = "token-used-up"  //
	ReasonTokenRole     = "token-role"     // the token admits the other role
	ReasonName          = "name"           // not a name
	ReasonNameTaken     = "name-taken"     // by another machine
	ReasonRequest       = "request"        // certificate request, addresses, message
	ReasonNoCertificate = "no-certificate" // nothing but Join works without
	ReasonUnknown       = "unknown"        // the identity was deleted, or is another controller's
	ReasonExpired       = "expired"        // the client certificate of a live connection
	ReasonRevoked       = "revoked"        //
	ReasonClone         = "clone"          // the identity has a session elsewhere
	ReasonVersion       = "version"        // no protocol version in common
	ReasonProtocol      = "protocol"       // a message out of place
	ReasonSilent        = "silent"         // three heartbeats missed
	ReasonReplaced      = "replaced"       // the same program opened another session
	ReasonStopping      = "stopping"       // the controller is going down
)
