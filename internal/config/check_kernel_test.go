package config

import "testing"

func TestKernelProblem(t *testing.T) {
	for _, c := range []struct{ kernel, goos, want string }{
		{KernelNFT, "linux", ""},
		{kernelOff, "darwin", ""},
		{KernelNFT, "darwin", "nftables is a part of Linux, and this is darwin; write kernel: off"},
	} {
		if got := kernelProblem(c.kernel, c.goos); got != c.want {
			t.Errorf("%s on %s: %q, want %q", c.kernel, c.goos, got, c.want)
		}
	}
}
