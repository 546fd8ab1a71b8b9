package httptask_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/stemjobs/stem/internal/httptask"
)

// TestGuard: what is not the public internet is refused, however it is
// written; allow_private: true allows what organisations use inside.
func TestGuard(t *testing.T) {
	const (
		public  = "public"
		private = "private" // allowed by Guard.Private
		refused = "refused"
	)
	for text, want := range map[string]string{
		"8.8.8.8": public, "1.1.1.1": public, "93.184.216.34": public, "223.255.255.255": public,
		"9.255.255.255": public, "11.0.0.0": public, "100.63.255.255": public, "100.128.0.0": public,
		"126.255.255.255": public, "128.0.0.0": public, "169.253.255.255": public, "169.255.0.0": public,
		"172.15.255.255": public, "172.32.0.0": public, "192.167.255.255": public, "192.169.0.0": public,
		"198.17.255.255": public, "198.20.0.0": public, "192.0.1.0": public, "192.0.3.0": public,

		"10.0.0.0": private, "10.255.255.255": private, "172.16.0.0": private, "172.31.255.255": private,
		"192.168.0.0": private, "192.168.255.255": private, "127.0.0.1": private, "127.255.255.255": private,
		"100.64.0.0": private, "100.127.255.255": private,

		"0.0.0.0": refused, "0.1.2.3": refused, "169.254.0.1": refused, "169.254.169.254": refused, "169.254.170.2": refused,
		"100.100.100.200": refused, "168.63.129.16": refused, "192.0.0.192": refused, "192.0.0.1": refused,
		"192.0.2.1": refused, "198.51.100.1": refused, "203.0.113.1": refused, "192.88.99.1": refused,
		"198.18.0.1": refused, "198.19.255.255": refused, "224.0.0.1": refused, "239.255.255.255": refused,
		"240.0.0.1": refused, "255.255.255.255": refused,

		"2606:4700:4700::1111": public, "2a00:1450:4001:80e::200e": public, "2001:200::1": public, "3ffe::1": public,
		"::1": private, "fc00::1": private, "fd12:3456::1": private,
		"::": refused, "::2": refused, "fe80::1": refused, "fe80::1%eth0": refused, "febf::1": refused, "fec0::1": refused,
		"ff02::1": refused, "ff0e::1": refused, "fd00:ec2::254": refused, "fd20:ce::254": refused,
		"2001:db8::1": refused, "3fff::1": refused, "2001::1": refused, "2001:2::1": refused, "2001:10::1": refused,
		"2002:808:808::1": refused, "2002:7f00:1::": refused, "100::1": refused, "5f00::1": refused, "4000::1": refused,
		"64:ff9b:1::a00:1": refused, "::7f00:1": refused, "::ffff:0:7f00:1": refused, "e000::1": refused,

		// IPv4 in IPv6, mapped or translated, is what it stands for.
		"::ffff:8.8.8.8": public, "::ffff:10.0.0.1": private, "::ffff:127.0.0.1": private, "::ffff:169.254.169.254": refused,
		"::ffff:0.0.0.0": refused, "64:ff9b::8.8.8.8": public, "64:ff9b::10.0.0.1": private, "64:ff9b::169.254.169.254": refused,
	} {
		addr := netip.MustParseAddr(text)
		if err := (httptask.Guard{}).Check(addr); (err == nil) != (want == public) {
			t.Errorf("%s by default: %v, but it is %s", text, err, want)
		}
		err := httptask.Guard{Private: true}.Check(addr)
		if (err == nil) != (want != refused) {
			t.Errorf("%s with private addresses: %v, but it is %s", text, err, want)
		}
		var refusal *httptask.RefusedError
		if err != nil && (!errors.As(err, &refusal) || refusal.Addr != addr || !strings.Contains(err.Error(), "allow_private lists it")) {
			t.Errorf("%s: the error is %v", text, err)
		}
	}
	if err := (httptask.Guard{Private: true}).Check(netip.Addr{}); err == nil {
		t.Error("no address at all is allowed")
	}
}

// TestGuardRanges: what is listed is allowed, and nothing beside it.
func TestGuardRanges(t *testing.T) {
	var g httptask.Guard
	for _, s := range []string{"10.1.0.0/16", "169.254.169.254", "fd12::/16", "0.0.0.0/32"} {
		p, err := httptask.ParseRange(s)
		if err != nil {
			t.Fatal(err)
		}
		g.Allowed = append(g.Allowed, p)
	}
	for text, want := range map[string]bool{
		"10.1.2.3": true, "10.2.0.0": false, "169.254.169.254": true, "169.254.169.253": false, "fd12::1": true, "fd13::1": false,
		"::ffff:10.1.2.3": true, "64:ff9b::10.1.2.3": true, "::ffff:10.2.0.0": false, "0.0.0.0": true, "8.8.8.8": true,
	} {
		if err := g.Check(netip.MustParseAddr(text)); (err == nil) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestParseRange(t *testing.T) {
	for text, want := range map[string]string{
		"": "want a range", "10.0.0.0/33": "want a range", "10/8": "want a range", "localhost": "want a range", "fe80::1%eth0": "want a range",
		"10.1.2.3/8": "did you mean 10.0.0.0/8?", "::ffff:10.0.0.0/104": "want a range", "::ffff:10.0.0.1": "want a range", "true": "want a range",
	} {
		if p, err := httptask.ParseRange(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseRange(%q) = %v, %v; want an error with %q", text, p, err, want)
		}
	}
}
