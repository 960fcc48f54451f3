package session

import (
	"errors"
	"fmt"
	"weft/model"

	"connectrpc.com/connect"

	"weft/controller/store"
	"weft/wire"
)

// refuse makes the error that ends a call: a code and a reason for programs,
// a sentence for people.
func refuse(code connect.Code, reason, format string, args ...any) error {
	err := connect.NewError(code, fmt.Errorf(format, args...))
	err.Meta().Set(wire.HeaderReason, reason)
	return err
}

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }

// again says how a program that was put out comes back.
func again(role model.Role) string {
	if role == model.RoleHost {
		return "join again with a new token: weft-agent join --again"
	}
	return "join again with a new token and an empty state directory"
}
