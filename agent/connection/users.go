package connection

import (
	"os/user"
	"strconv"
)

// maxUsers bounds how many names are remembered.
const maxUsers = 10_000

// Users tells users' names on this machine. The zero value is ready.
type Users struct{ names map[uint32]string }

// Name is the name of a process's user, the number where it has none, and empty
// where nothing is known of the process.
func (u *Users) Name(p Process) string {
	if p.PID == 0 {
		return ""
	}
	name, ok := u.names[p.UID]
	if !ok {
		name = strconv.FormatUint(uint64(p.UID), 10)
		if found, err := user.LookupId(name); err == nil {
			name = found.Username
		}
		if u.names == nil {
			u.names = map[uint32]string{}
		}
		if len(u.names) < maxUsers {
			u.names[p.UID] = name
		}
	}
	return name
}
