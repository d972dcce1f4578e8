//go:build !unix

package connlimit

// openFiles returns how many files this process may have open.
func openFiles() uint64 { return maxConnections * filesPerConnection }
