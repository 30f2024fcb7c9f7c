//go:build !linux

package main

import "testing"

// isolatedEnv is never set here: networks of one's own are a thing of Linux.
const isolatedEnv = "POSTERN_TEST_ISOLATED"

func raiseLoopback() error { return nil }

func TestIsolated(t *testing.T) { t.Skip("a network of its own is a thing of Linux") }
