package httptask

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// Guard says which addresses a task may connect to. The zero value allows
// those of the public internet alone.
type Guard struct {
	// Private also allows what organisations use inside: loopback, the private
	// ranges of IPv4 and IPv6, and the shared range 100.64.0.0/10. It does not
	// allow link-local addresses and those at which clouds serve credentials.
	Private bool
	// Allowed are ranges in which everything is allowed.
	Allowed []netip.Prefix
}

// RefusedError says that a guard does not allow an address.
type RefusedError struct {
	Addr netip.Addr
	Kind string // such as "a private address"
	// Private tells whether Guard.Private would allow it.
	Private bool
}

func (e *RefusedError) Error() string {
	if e.Private {
		return fmt.Sprintf("%s is %s, which this task may not reach: allow_private allows it", e.Addr, e.Kind)
	}
	return fmt.Sprintf("%s is %s, which this task may not reach unless allow_private lists it", e.Addr, e.Kind)
}

// block is a range of addresses that are not the public internet's.
type block struct {
	prefix  netip.Prefix
	kind    string
	private bool // Guard.Private allows it
}

const (
	kindPrivate       = "a private address"
	kindLoopback      = "a loopback address"
	kindMetadata      = "a cloud's metadata address"
	kindLinkLocal     = "a link-local address"
	kindDocumentation = "an address for documentation"
	kindReserved      = "a reserved address"
	kindTunnel        = "an address of a tunnel to IPv4"
	kindMulticast     = "a multicast address"
	kindUnspecified   = "an unspecified address"
)

// special lists what is not public; the first match counts. It follows IANA's
// registries of special-purpose addresses, and adds the metadata services that
// hide in ranges of another kind.
var special = []block{
	{netip.MustParsePrefix("100.100.100.200/32"), kindMetadata, false}, // Alibaba
	{netip.MustParsePrefix("168.63.129.16/32"), kindMetadata, false},   // Azure
	{netip.MustParsePrefix("192.0.0.192/32"), kindMetadata, false},     // Oracle
	{netip.MustParsePrefix("169.254.169.254/32"), kindMetadata, false}, // most
	{netip.MustParsePrefix("fd00:ec2::/32"), kindMetadata, false},      // Amazon
	{netip.MustParsePrefix("fd20:ce::/32"), kindMetadata, false},       // Google

	{netip.MustParsePrefix("0.0.0.0/8"), kindUnspecified, false},
	{netip.MustParsePrefix("10.0.0.0/8"), kindPrivate, true},
	{netip.MustParsePrefix("100.64.0.0/10"), "an address shared by a carrier", true},
	{netip.MustParsePrefix("127.0.0.0/8"), kindLoopback, true},
	{netip.MustParsePrefix("169.254.0.0/16"), kindLinkLocal, false},
	{netip.MustParsePrefix("172.16.0.0/12"), kindPrivate, true},
	{netip.MustParsePrefix("192.0.0.0/24"), kindReserved, false},
	{netip.MustParsePrefix("192.0.2.0/24"), kindDocumentation, false},
	{netip.MustParsePrefix("192.88.99.0/24"), kindTunnel, false},
	{netip.MustParsePrefix("192.168.0.0/16"), kindPrivate, true},
	{netip.MustParsePrefix("198.18.0.0/15"), kindReserved, false}, // benchmarks
	{netip.MustParsePrefix("198.51.100.0/24"), kindDocumentation, false},
	{netip.MustParsePrefix("203.0.113.0/24"), kindDocumentation, false},
	{netip.MustParsePrefix("224.0.0.0/4"), kindMulticast, false},
	{netip.MustParsePrefix("240.0.0.0/4"), kindReserved, false},

	{netip.MustParsePrefix("::/128"), kindUnspecified, false},
	{netip.MustParsePrefix("::1/128"), kindLoopback, true},
	{netip.MustParsePrefix("fc00::/7"), kindPrivate, true},
	{netip.MustParsePrefix("fe80::/10"), kindLinkLocal, false},
	{netip.MustParsePrefix("ff00::/8"), kindMulticast, false},
	{netip.MustParsePrefix("2001::/32"), kindTunnel, false}, // Teredo
	{netip.MustParsePrefix("2001::/23"), kindReserved, false},
	{netip.MustParsePrefix("2001:db8::/32"), kindDocumentation, false},
	{netip.MustParsePrefix("2002::/16"), kindTunnel, false}, // 6to4
	{netip.MustParsePrefix("3fff::/20"), kindDocumentation, false},
}

// Check returns a [*RefusedError] for an address that is not allowed. An IPv6
// address that stands for an IPv4 one, mapped or translated, is judged as that.
func (g Guard) Check(addr netip.Addr) error {
	target := embedded(addr.WithZone("").Unmap())
	if slices.ContainsFunc(g.Allowed, func(p netip.Prefix) bool { return p.Contains(target) }) {
		return nil
	}
	for _, b := range special {
		if !b.prefix.Contains(target) {
			continue
		}
		if b.private && g.Private {
			return nil
		}
		return &RefusedError{Addr: addr, Kind: b.kind, Private: b.private}
	}
	switch {
	case !target.IsValid():
		return &RefusedError{Addr: addr, Kind: kindUnspecified}
	case target.Is6() && target.As16()[0]>>5 != 1:
		return &RefusedError{Addr: addr, Kind: kindReserved} // only 2000::/3 is in public use
	}
	return nil
}

// embedded is the IPv4 address to which a translator with the well-known
// prefix 64:ff9b::/96 sends what is meant for addr; else addr itself.
func embedded(addr netip.Addr) netip.Addr {
	if !addr.Is6() {
		return addr
	}
	b := addr.As16()
	if [12]byte(b[:12]) != [12]byte{0: 0x00, 1: 0x64, 2: 0xff, 3: 0x9b} {
		return addr
	}
	return netip.AddrFrom4([4]byte(b[12:]))
}

// control refuses a connection before it is made: a net.Dialer calls it with
// each address that a name was resolved to.
func (g Guard) control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dial %.100q: not an address: %w", address, err)
	}
	return g.Check(at.Addr())
}

// key is the same for guards that allow the same.
func (g Guard) key() string {
	words := make([]string, 0, len(g.Allowed)+1)
	for _, p := range g.Allowed {
		words = append(words, p.Masked().String())
	}
	slices.Sort(words)
	words = slices.Compact(words)
	if g.Private {
		words = append(words, "private")
	}
	return strings.Join(words, " ")
}

// ParseRange reads a range of addresses, such as 10.1.0.0/16, or one address.
func ParseRange(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" && !addr.Is4In6() {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return netip.Prefix{}, errors.New("want a range of addresses like 10.1.0.0/16, or an address")
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("it begins within a range: did you mean %s?", p.Masked())
	}
	return p, nil
}
