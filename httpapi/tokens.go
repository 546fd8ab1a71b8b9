package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Role is what a token may be used for.
type Role string

// The roles. Each stands for itself, but Operate, which may do everything.
const (
	Read    Role = "read"    // look at tasks, queues, dead letters, workers
	Enqueue Role = "enqueue" // enqueue tasks
	Work    Role = "work"    // lease, extend and settle: the pull API
	Operate Role = "operate" // everything: revoke, purge and replay too
)

// Roles lists the roles.
func Roles() []Role { return []Role{Read, Enqueue, Work, Operate} }

// Token is one bearer token: its hash, and what it may be used for. Several may
// have one name, so that a token can be replaced without a gap.
type Token struct {
	Name  string // in the log
	Roles []Role
	Hash  [sha256.Size]byte // SHA-256 of the token
}

// NewToken makes a Token of its secret.
func NewToken(name, secret string, roles ...Role) Token {
	return Token{Name: name, Roles: roles, Hash: sha256.Sum256([]byte(secret))}
}

// minToken is how short a token may be: less can be guessed.
const minToken = 16

// hashPrefix marks a token that is given as its hash.
const hashPrefix = "sha256:"

// ParseTokens reads tokens as STEM_API_TOKENS has them: NAME:ROLE[+ROLE]:TOKEN,
// one a line or with commas in between; lines that begin with # are comments.
// In place of TOKEN, sha256: and the hexadecimal SHA-256 of it keeps the secret
// out of files. The error never quotes a token.
func ParseTokens(text string) ([]Token, error) {
	var tokens []Token
	for i, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "#") {
			continue
		}
		for entry := range strings.SplitSeq(line, ",") {
			if entry = strings.TrimSpace(entry); entry == "" {
				continue
			}
			t, err := parseToken(entry)
			if err != nil {
				return nil, fmt.Errorf("API token %d, line %d: %w", len(tokens)+1, i+1, err)
			}
			if other := slices.IndexFunc(tokens, func(o Token) bool { return o.Hash == t.Hash }); other >= 0 {
				return nil, fmt.Errorf("API token %d, line %d: %s: it is the same as token %d: give one token all its roles", len(tokens)+1, i+1, t.Name, other+1)
			}
			tokens = append(tokens, t)
		}
	}
	return tokens, nil
}

func parseToken(entry string) (Token, error) {
	name, rest, ok1 := strings.Cut(entry, ":")
	roles, secret, ok2 := strings.Cut(rest, ":")
	if !ok1 || !ok2 || name == "" {
		return Token{}, errors.New("want NAME:ROLE[+ROLE]:TOKEN")
	}
	t := Token{Name: name}
	for r := range strings.SplitSeq(roles, "+") {
		role := Role(r)
		if !slices.Contains(Roles(), role) {
			if len(r) >= minToken { // perhaps the token itself, in the wrong place
				r = "of " + strconv.Itoa(len(r)) + " bytes"
			} else {
				r = strconv.Quote(r)
			}
			return t, fmt.Errorf("%s: unknown role %s: want any of read, enqueue, work, operate, joined by +", name, r)
		}
		t.Roles = append(t.Roles, role)
	}
	if digest, ok := strings.CutPrefix(secret, hashPrefix); ok {
		raw, err := hex.DecodeString(digest)
		if err != nil || copy(t.Hash[:], raw) != len(raw) || len(raw) != len(t.Hash) {
			return t, fmt.Errorf("%s: want 64 hexadecimal digits after %s", name, hashPrefix)
		}
		return t, nil
	}
	if len(secret) < minToken {
		return t, fmt.Errorf("%s: the token has %d bytes: want %d or more, made at random", name, len(secret), minToken)
	}
	t.Hash = sha256.Sum256([]byte(secret))
	return t, nil
}

// may says whether the token has a role; "" asks for none in particular.
func (t *Token) may(role Role) bool {
	return role == "" || slices.Contains(t.Roles, role) || slices.Contains(t.Roles, Operate)
}

// find returns the token that was presented, after comparing it to all of
// them, or nil.
func find(tokens []Token, presented string) *Token {
	hash := sha256.Sum256([]byte(presented))
	var found *Token
	for i := range tokens {
		if subtle.ConstantTimeCompare(hash[:], tokens[i].Hash[:]) == 1 {
			found = &tokens[i]
		}
	}
	return found
}
