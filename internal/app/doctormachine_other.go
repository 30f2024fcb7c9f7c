//go:build !linux

package app

import "net/netip"

func defaultGateway() (netip.Addr, string, error)    { return netip.Addr{}, "", errUnknown }
func clockSynced() (bool, error)                     { return false, errUnknown }
func diskSpace(string) (free, all uint64, err error) { return 0, 0, errUnknown }
func memoryLeft() (free, all uint64, err error)      { return 0, 0, errUnknown }
func openFiles() (open, limit int, err error)        { return 0, 0, errUnknown }
