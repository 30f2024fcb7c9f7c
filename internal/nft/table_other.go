//go:build !linux

package nft

import (
	"errors"
	"net/netip"
)

var errUnsupported = errors.New("nftables is a part of Linux; set guard.kernel: off")

// A table is what only Linux has.
type table struct{}

func openTable(int) (*table, error) { return nil, wayOut(errUnsupported, false) }

func (t *table) replace(ports) error       { return errUnsupported }
func (t *table) put([]Ban) error           { return errUnsupported }
func (t *table) drop([]netip.Prefix) error { return errUnsupported }
func (t *table) has(netip.Prefix) error    { return errUnsupported }
func (t *table) remove() error             { return errUnsupported }

func (t *table) dropped() (uint64, error) { return 0, errUnsupported }
