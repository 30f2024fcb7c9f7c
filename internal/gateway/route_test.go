package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
)

func TestRoutes4(t *testing.T) {
	hex := func(s string) string {
		a := netip.MustParseAddr(s).As4()
		return fmt.Sprintf("%08X", binary.NativeEndian.Uint32(a[:]))
	}
	const head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
	text := head +
		"wlan0 00000000 " + hex("10.0.0.1") + " 0003 0 0 600 00000000 0 0 0\n" +
		"eth0 00000000 " + hex("192.168.1.1") + " 0003 0 0 100 00000000 0 0 0\n" +
		"down0 00000000 " + hex("192.168.9.1") + " 0002 0 0 1 00000000 0 0 0\n" +
		"tun0 00000000 00000000 0001 0 0 1 00000000 0 0 0\n" +
		"eth0 " + hex("192.168.1.0") + " 00000000 0001 0 0 100 00FFFFFF 0 0 0\n"
	if h, err := parseRoutes4(text); err != nil || h.router.String() != "192.168.1.1" || h.iface != "eth0" {
		t.Errorf("got %+v, %v, want 192.168.1.1 by eth0", h, err)
	}
	for _, bad := range []string{"", head, "x\n00000000 00000000\n", "eth0 00000000 zz 0003 0 0 0 00000000 0 0 0\n"} {
		if h, err := parseRoutes4(bad); !errors.Is(err, ErrNoGateway) {
			t.Errorf("%q: got %+v, %v, want no gateway", bad, h, err)
		}
	}
}

func TestRoutes6(t *testing.T) {
	const zero = "00000000000000000000000000000000"
	text := "20010db8000000000000000000000000 40 " + zero + " 00 " + zero + " 00000100 00000001 00000000 00000001 eth0\n" +
		zero + " 00 " + zero + " 00 fe800000000000000000000000000002 00000400 00000003 00000000 00450003 wlan0\n" +
		zero + " 00 " + zero + " 00 fe800000000000000000000000000001 00000064 00000003 00000000 00450003 eth0\n" +
		zero + " 00 " + zero + " 00 " + zero + " ffffffff 00000001 00000000 00200200 lo\n"
	if h, err := parseRoutes6(text); err != nil || h.router.String() != "fe80::1%eth0" || h.iface != "eth0" {
		t.Errorf("got %+v, %v, want fe80::1%%eth0", h, err)
	}
	if h, err := parseRoutes6("x\n"); !errors.Is(err, ErrNoGateway) {
		t.Errorf("got %+v, %v, want no gateway", h, err)
	}
	addrs := "20010db8000000000000000000000009 02 40 00 80 eth0\n" +
		"20010db8000000000000000000000010 02 40 00 01 eth0\n" + // temporary
		"20010db8000000000000000000000011 02 40 00 20 eth0\n" + // deprecated
		"20010db8000000000000000000000012 02 40 00 40 eth0\n" + // tentative
		"fd000000000000000000000000000009 02 40 00 80 eth0\n" + // private
		"fe800000000000000000000000000009 02 40 20 80 eth0\n" + // link-local
		"20010db8000000000000000000000013 03 40 00 80 wlan0\n"
	if got := parseAddrs6(addrs, "eth0"); fmt.Sprint(got) != "[2001:db8::9]" {
		t.Errorf("got %v, want the stable global one of eth0 alone", got)
	}
}
