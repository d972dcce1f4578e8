//go:build unix

package connlimit

import "syscall"

// openFiles returns how many files this process may have open.
func openFiles() uint64 {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return maxConnections * filesPerConnection
	}
	return uint64(limit.Cur)
}
