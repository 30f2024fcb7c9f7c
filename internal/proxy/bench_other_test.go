//go:build !unix

package proxy

import "time"

// cpuTime is not known here.
func cpuTime() time.Duration { return 0 }
