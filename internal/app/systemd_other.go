//go:build !linux

package app

// reloadingState is what sd_notify(3) wants at the beginning of a reload;
// there is no systemd here.
func reloadingState() string { return "RELOADING=1" }
