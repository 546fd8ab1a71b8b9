package task_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stemjobs/stem/task"
)

// typical is an envelope of 250 bytes or so, as most are.
func typical() *task.Envelope {
	return &task.Envelope{
		ID: "0190c8a1-7b2e-7c3d-9a4f-1b2c3d4e5f60", Name: "email.send",
		Args:       json.RawMessage(`{"to":"ada@example.org","template":"welcome","n":9007199254740993}`),
		EnqueuedAt: time.Date(2026, 3, 1, 12, 30, 15, 250e6, time.UTC),
		Priority:   task.DefaultPriority, MaxRetries: 3, Queue: "default",
	}
}

func BenchmarkEncode(b *testing.B) {
	e := typical()
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = task.AppendEncode(buf[:0], e); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(buf)), "bytes")
}

func BenchmarkEncodedSize(b *testing.B) {
	e := typical()
	for b.Loop() {
		task.EncodedSize(e)
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, c := range []struct {
		name string
		edit func(*task.Envelope)
	}{
		{"typical", func(*task.Envelope) {}},
		{"headers", func(e *task.Envelope) {
			e.Headers = map[string]string{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tenant": "acme"}
			e.Meta = map[string]json.RawMessage{task.MetaParent: json.RawMessage(`"0190c8a1"`)}
		}},
	} {
		e := typical()
		c.edit(e)
		data, err := task.Encode(e)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := task.Decode(data); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(data)), "bytes")
		})
	}
}

func BenchmarkValidateJSON(b *testing.B) {
	raw := typical().Args
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if err := task.ValidateJSON("args", raw); err != nil {
			b.Fatal(err)
		}
	}
}
