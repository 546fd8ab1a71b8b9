package redis

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// URLForm is what ParseURL accepts, in words.
const URLForm = "redis://[USER:PASSWORD@]HOST[:6379][/DB], rediss:// for TLS, " +
	"redis+sentinel://HOST[:26379],HOST…/MASTER[/DB] or redis+cluster://HOST[:6379],HOST…, " +
	"with ?partitions=N or ?wait_replicas=N if need be"

// Ports that a URL means when it has none.
const (
	redisPort    = "6379"
	sentinelPort = "26379"
)

// IsURLScheme reports whether ParseURL reads URLs of this scheme.
func IsURLScheme(scheme string) bool { return slices.Contains(schemes(), scheme) }

func schemes() []string {
	return []string{"redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"}
}

// URL is what a URL says.
type URL struct {
	Config
	Secure bool   // the connection is to use TLS: Config.TLS is for the caller to fill
	Place  string // equal for URLs that lead to the same keys
}

// ParseURL reads a URL of URLForm. Characters that have a meaning in URLs are
// written as %XX in names and passwords. The error has no part of the URL that
// could be secret.
func ParseURL(raw string) (URL, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	scheme = strings.ToLower(scheme)
	if !ok || !IsURLScheme(scheme) {
		return URL{}, errors.New("it does not begin with redis:// or one of the others")
	}
	kind, _ := strings.CutPrefix(scheme, "rediss")
	kind, _ = strings.CutPrefix(kind, "redis")
	u := URL{Secure: strings.HasPrefix(scheme, "rediss")}
	rest, fragment, _ := strings.Cut(rest, "#")
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	if fragment != "" || strings.Contains(path, "@") {
		return URL{}, errors.New("in a password / is written %2F, # is %23, ? is %3F and @ is %40")
	}
	hosts, err := u.user(authority)
	if err != nil {
		return URL{}, err
	}
	port := redisPort
	if kind == "+sentinel" {
		port = sentinelPort
	}
	if err := u.hosts(hosts, port); err != nil {
		return URL{}, err
	}
	switch kind {
	case "+sentinel":
		u.Sentinel, path, _ = strings.Cut(path, "/")
		if u.Sentinel == "" {
			return URL{}, errors.New("the name of the master is missing, as in redis+sentinel://HOST,HOST/MASTER")
		}
	case "+cluster":
		u.Cluster = true
	default:
		if len(u.Addrs) > 1 {
			return URL{}, errors.New("several hosts are for redis+sentinel:// and redis+cluster://")
		}
	}
	if err := u.database(path); err != nil {
		return URL{}, err
	}
	if err := u.options(query); err != nil {
		return URL{}, err
	}
	where := slices.Sorted(slices.Values(u.Addrs))
	u.Place = "redis" + kind + "://" + strings.Join(where, ",") + "/" + u.Sentinel + "/" + strconv.Itoa(u.DB)
	return u, nil
}

// user reads what stands before the @, and returns what follows it.
func (u *URL) user(authority string) (hosts string, err error) {
	at := strings.LastIndex(authority, "@")
	if at < 0 {
		return authority, nil
	}
	name, password, ok := strings.Cut(authority[:at], ":")
	if !ok {
		return "", errors.New("a colon stands before the password, also without a user: redis://:PASSWORD@HOST")
	}
	var err1, err2 error
	u.Username, err1 = url.PathUnescape(name)
	u.Password, err2 = url.PathUnescape(password)
	if err1 != nil || err2 != nil {
		return "", errors.New("in names and passwords % is written %25")
	}
	return authority[at+1:], nil
}

func (u *URL) hosts(list, port string) error {
	for h := range strings.SplitSeq(list, ",") {
		switch {
		case h == "":
			return errors.New("the host is missing")
		case strings.ContainsAny(h, " \t"):
			return errors.New("a host has no spaces")
		}
		host, p, err := net.SplitHostPort(h)
		if err != nil { // there is no port, or it is no address
			host, p = strings.Trim(h, "[]"), port
		}
		if strings.Contains(host, ":") && !strings.HasPrefix(h, "[") {
			return errors.New("an IPv6 address stands in brackets, as in [::1]:6379")
		}
		if err != nil && strings.ContainsAny(h, "[]") && h != "["+host+"]" {
			return errors.New("a bracket around an IPv6 address is missing, as in [::1]:6379")
		}
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 || host == "" {
			return fmt.Errorf("a host is NAME or NAME:PORT, and a port 1–65535")
		}
		u.Addrs = append(u.Addrs, net.JoinHostPort(host, p))
	}
	return nil
}

// database reads the number of the logical database.
func (u *URL) database(path string) error {
	path = strings.TrimSuffix(path, "/")
	if path == "" {
		return nil
	}
	n, err := strconv.Atoi(path)
	switch {
	case err != nil || n < 0 || strconv.Itoa(n) != path:
		return errors.New("the database is a number, as in redis://HOST/0")
	case u.Cluster && n != 0:
		return errors.New("a Cluster has no database but 0")
	}
	u.DB = n
	return nil
}

func (u *URL) options(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("the options after ? cannot be read")
	}
	for key, all := range values {
		value := all[len(all)-1]
		number := func(least, most int, to *int) error {
			n, err := strconv.Atoi(value)
			if err != nil || n < least || n > most {
				return fmt.Errorf("%s is a number from %d to %d", key, least, most)
			}
			*to = n
			return nil
		}
		var err error
		switch key {
		case "partitions":
			err = number(1, maxPartitions, &u.Partitions)
		case "wait_replicas":
			err = number(0, 10, &u.WaitReplicas)
		case "sentinel_username", "sentinel_password":
			if u.Sentinel == "" {
				err = fmt.Errorf("%s is for redis+sentinel://", key)
			}
			if key == "sentinel_username" {
				u.SentinelUsername = value
			} else {
				u.SentinelPassword = value
			}
		default:
			err = fmt.Errorf("%.40q is no option: there are partitions, wait_replicas, sentinel_username and sentinel_password", key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
