// Package fingerprint tells which errors are the same but for their details,
// so that many dead letters can be looked at as a few kinds of failure. It
// imports the standard library alone.
package fingerprint

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxRead and maxText bound, in bytes, what is read of a message and what is
// left of it.
const (
	maxRead = 4 << 10
	maxText = 300
)

// idLength is how many hex digits a fingerprint has: 48 bits, with which two of
// ten thousand kinds are taken for one in one of five million stores.
const idLength = 12

// Of returns the fingerprint of an error, and its message without details.
// Errors of one type whose messages differ in details alone have the same.
func Of(kind, message string) (id, text string) {
	text = Normalise(message)
	sum := sha256.Sum256([]byte(kind + "\x00" + text))
	return hex.EncodeToString(sum[:])[:idLength], text
}

// Valid reports whether id has the form of a fingerprint.
func Valid(id string) bool {
	return len(id) == idLength && strings.Trim(id, "0123456789abcdef") == ""
}

// What is replaced.
var (
	urlPattern   = regexp.MustCompile(`[a-zA-Z][a-zA-Z0-9+.\-]*://[^\s"'<>]*[^\s"'<>:,;.)\]]`)
	textPattern  = regexp.MustCompile("\"(?:[^\"\\\\]|\\\\.)*\"|`[^`]*`|(^|[\\s(\\[{=:,])'[^']*'")
	uuidPattern  = regexp.MustCompile(`(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`)
	pathPattern  = regexp.MustCompile(`(^|[\s(\[=:,])(?:[a-zA-Z]:\\|\.{0,2}/|~/)[^\s:,;)\]"'<>]+`)
	hexPattern   = regexp.MustCompile(`(?i)\b0x[0-9a-f]+\b`)
	mixedPattern = regexp.MustCompile(`(?i)\b(?:` + mixed() + `)\b`)
	digitPattern = regexp.MustCompile(`[0-9]+(?:[.,:\-][0-9]+)*`)
)

// replace names details by their kinds, in this order.
func replace(text string) string {
	text = urlPattern.ReplaceAllString(text, "<url>")
	text = textPattern.ReplaceAllString(text, "${1}<text>")
	text = uuidPattern.ReplaceAllString(text, "<uuid>")
	text = pathPattern.ReplaceAllString(text, "${1}<path>")
	text = hexPattern.ReplaceAllString(text, "<hex>")
	text = mixedPattern.ReplaceAllString(text, "<hex>")
	return digitPattern.ReplaceAllString(text, "<n>")
}

// mixed is a pattern for eight and more hex digits of which one at least is a
// digit and one a letter, so that no word is taken for a number.
func mixed() string {
	var ways []string
	for n := 1; n < 8; n++ {
		rest := strconv.Itoa(7 - n)
		ways = append(ways, "[0-9]{"+strconv.Itoa(n)+"}[a-f][0-9a-f]{"+rest+",}", "[a-f]{"+strconv.Itoa(n)+"}[0-9][0-9a-f]{"+rest+",}")
	}
	return strings.Join(ways, "|") + "|[0-9]{8,}[a-f][0-9a-f]*|[a-f]{8,}[0-9][0-9a-f]*"
}

// Normalise returns a message without its details: numbers, hexadecimal words,
// UUIDs, quoted texts, paths and addresses are named by their kinds, and runs of
// white space are one blank. It is cut to 300 bytes of valid UTF-8. To
// normalise twice is to normalise once.
func Normalise(message string) string {
	text := strings.ToValidUTF8(cut(message, maxRead), "\uFFFD")
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	for range maxRounds {
		before := text
		if text = strings.TrimSpace(cut(replace(text), maxText)); text == before {
			break
		}
	}
	return text
}

// maxRounds bounds how often details are replaced: what one replacement leaves
// may be a detail itself, such as the rest of a quoted text.
const maxRounds = 8

// cut returns at most n bytes of a text, without a torn rune or a torn
// replacement at the end.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	text = text[:n]
	if i := strings.LastIndexByte(text, '<'); i >= 0 && len(text)-i < len("<text>") && !strings.Contains(text[i:], ">") {
		text = text[:i]
	}
	return text
}
