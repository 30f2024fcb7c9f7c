//go:build !unix

package app

// giveBack has nothing to do where files have no such owner.
func giveBack(string) error { return nil }
