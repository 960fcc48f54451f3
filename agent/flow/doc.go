// Package flow accounts for what connections do: it follows the connection
// table, writes what has changed since it last did to batches on disk, and hands
// them to the session with the controller until they are acknowledged.
//
// README.md beside the code says how the account stays right over kill -9.
package flow
