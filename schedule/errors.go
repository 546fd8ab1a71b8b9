package schedule

import "strconv"

// Error says what is wrong with a definition: which part of it, what stands there,
// and what would be accepted.
type Error struct {
	Field string // such as "minute", "timezone", "latitude"
	Value string // what was given; what is long is cut
	Want  string // the accepted form, in words
}

// Error tells all three, as in: minute "61": want a number from 0 to 59.
func (e *Error) Error() string {
	return e.Field + " " + strconv.Quote(e.Value) + ": want " + e.Want
}

// longestValue is how much of a wrong value an error repeats, in bytes.
const longestValue = 64

func wrong(field, value, want string) *Error {
	if len(value) > longestValue {
		value = value[:longestValue] + "…"
	}
	return &Error{Field: field, Value: value, Want: want}
}
