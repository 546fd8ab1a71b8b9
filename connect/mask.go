package connect

import (
	"net/url"
	"slices"
	"strings"
)

// hidden stands where a secret was.
const hidden = "***"

// Mask returns a URL that can be printed: passwords, and query parameters that
// sound like secrets, are replaced. Of what cannot be parsed only the scheme is
// left.
func Mask(raw string) string {
	scheme, rest, ok := strings.Cut(raw, ":")
	file := scheme == "sqlite" || scheme == "memory" // an @ belongs to the path
	if !ok || file || !strings.HasPrefix(rest, "//") && !strings.Contains(rest, "@") {
		return maskQuery(raw)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" || !strings.HasPrefix(rest, "//") {
		return scheme + ":" + hidden
	}
	if strings.Contains(u.Path, "@") { // a password with a slash in it, perhaps
		return scheme + ":" + hidden
	}
	user := u.User
	u.User = nil
	shown := u.String()
	if user != nil {
		who := hidden // a name alone can be a token
		if _, has := user.Password(); has {
			who = url.User(user.Username()).String() + ":" + hidden
		}
		shown = strings.Replace(shown, "://", "://"+who+"@", 1)
	}
	return maskQuery(shown)
}

// maskQuery hides the values of query parameters that sound like secrets.
func maskQuery(raw string) string {
	head, query, ok := strings.Cut(raw, "?")
	if !ok {
		return raw
	}
	parts := strings.Split(query, "&")
	redis := strings.HasPrefix(head, "redis") // has few options: what else is there may be a mistyped password
	for i, p := range parts {
		key, _, _ := strings.Cut(p, "=")
		known := key == "partitions" || key == "wait_replicas"
		if soundsSecret(key) || redis && !known {
			parts[i] = key + "=" + hidden
		}
	}
	return head + "?" + strings.Join(parts, "&")
}

func soundsSecret(key string) bool {
	key = strings.ToLower(key)
	return slices.ContainsFunc([]string{"pass", "pwd", "secret", "token", "key", "auth", "cred"}, func(w string) bool {
		return strings.Contains(key, w)
	})
}
