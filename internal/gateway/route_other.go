//go:build !linux

package gateway

// defaultRoute4 is known on Linux only; elsewhere Router.Gateway tells it.
func defaultRoute4() (hop, error) { return hop{}, ErrNoGateway }

// defaultRoute6 is known on Linux only; elsewhere Router.Gateway6 tells it.
func defaultRoute6() (hop, error) { return hop{}, ErrNoGateway }
