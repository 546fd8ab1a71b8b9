package httptask

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// maxSecret bounds what a file of a secret or a header's value may hold.
const maxSecret = 8 << 10

// Value is a text, or the place where it is read whenever it is needed, so
// that what is replaced there counts from the next call on.
type Value struct {
	text     string
	file     string
	variable string
}

// Text is a value that stands in the tasks file itself.
func Text(s string) Value { return Value{text: s} }

// InFile is a value in a file, without the end of its last line.
func InFile(path string) Value { return Value{file: path} }

// InVariable is a value in an environment variable.
func InVariable(name string) Value { return Value{variable: name} }

// read returns the value. Its errors say where it was looked for, not what was
// found.
func (v Value) read() (string, error) {
	switch {
	case v.variable != "":
		s := os.Getenv(v.variable)
		if s == "" {
			return "", fmt.Errorf("the variable %s is not set", v.variable)
		}
		return s, nil
	case v.file != "":
		return readFile(v.file)
	}
	return v.text, nil
}

func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	switch {
	case err != nil:
		return "", err
	case len(data) > maxSecret:
		return "", fmt.Errorf("%s has more than %d KiB", path, maxSecret>>10)
	}
	s := strings.TrimRight(string(data), "\r\n")
	if s == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return s, nil
}

// ParseSecret reads where a secret is: "@" and the path of a file, or the name
// of an environment variable. A secret itself has no place in a tasks file.
func ParseSecret(s string) (Value, error) {
	if path, ok := strings.CutPrefix(s, "@"); ok {
		if path == "" {
			return Value{}, errors.New("want the path of a file after the @")
		}
		return InFile(path), nil
	}
	// Capitals alone, because what has others could be a secret, and names are
	// printed.
	const characters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
	if s == "" || s[0] >= '0' && s[0] <= '9' || strings.Trim(s, characters) != "" {
		return Value{}, errors.New("want @/path/to/a/file or the NAME of a variable, not the secret itself")
	}
	if strings.HasPrefix(s, "STEM_") {
		return Value{}, fmt.Errorf("%s: Stem's own variables are not used for this", s)
	}
	return InVariable(s), nil
}

// signature is the value of the Stem-Signature header: the moment, and for
// each secret the HMAC-SHA256 of the moment, a dot and the body. A receiver
// that knows one of the secrets knows that body and moment are the sender's.
func signature(at time.Time, body []byte, secrets []string) string {
	moment := strconv.FormatInt(at.Unix(), 10)
	var s strings.Builder
	s.WriteString("t=" + moment)
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(moment + "."))
		mac.Write(body)
		s.WriteString(",v1=" + hex.EncodeToString(mac.Sum(nil)))
	}
	return s.String()
}
