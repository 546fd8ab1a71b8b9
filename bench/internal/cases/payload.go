package cases

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
)

// Args is a task's argument: its number and a filler that differs from task to
// task, so that no store gains from repeats.
type Args struct {
	Seq int    `json:"seq"`
	Pad string `json:"pad"`
}

const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// NewArgs makes the argument of task seq: about Payload bytes of JSON.
func NewArgs(seq int) Args {
	pad := make([]byte, Payload-25)
	r := rand.New(rand.NewPCG(uint64(seq), 7))
	for i := 0; i < len(pad); {
		for bits, k := r.Uint64(), 0; k < 10 && i < len(pad); k++ {
			pad[i] = alphabet[bits&63]
			bits >>= 6
			i++
		}
	}
	return Args{Seq: seq, Pad: string(pad)}
}

// JSON is the argument as the raw stores keep it.
func (a Args) JSON() []byte {
	b, err := json.Marshal(a)
	if err != nil {
		panic(err) // an int and a string of ASCII
	}
	return b
}

// Kept is the result of the cases that keep one.
var Kept = strings.Repeat("r", 62)
