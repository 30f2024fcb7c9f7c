//go:build unix

package tlsmgr

import (
	"fmt"
	"os"
	"syscall"
)

// ownerOf describes who may write to a folder.
func ownerOf(dir string) string {
	fi, err := os.Stat(dir)
	if err != nil {
		return "owner unknown"
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("owner %d:%d, mode %v", st.Uid, st.Gid, fi.Mode().Perm())
	}
	return "owner unknown"
}
