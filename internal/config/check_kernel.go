package config

import "runtime"

// What may drop banned addresses before they reach us.
const (
	kernelOff = "off"
	// KernelNFT is the value of guard.kernel that stands for nftables.
	KernelNFT = "nftables"
)

func (c *checker) kernel() {
	c.choice("guard.kernel", &c.cfg.Guard.Kernel, kernelOff, KernelNFT)
	c.at("guard.kernel", func() {
		if why := kernelProblem(c.cfg.Guard.Kernel, runtime.GOOS); why != "" {
			c.errorf("guard.kernel", "%s", why)
		}
		if c.cfg.Guard.Kernel == KernelNFT && c.cfg.Guard.Mode != "enforce" {
			c.warnf("guard.kernel", "guard.mode is %s, so nothing is dropped", c.cfg.Guard.Mode)
		}
	})
}

// kernelProblem says why a system has no such thing, "" if it has.
func kernelProblem(kernel, goos string) string {
	if kernel == KernelNFT && goos != "linux" {
		return "nftables is a part of Linux, and this is " + goos + "; write kernel: off"
	}
	return ""
}
