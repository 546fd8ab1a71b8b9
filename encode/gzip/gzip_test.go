package gzip_test

import (
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/stemjobs/stem/encode"
	"github.com/stemjobs/stem/encode/gzip"
	"github.com/stemjobs/stem/task"
)

var _ encode.Encoder = (*gzip.Encoder)(nil)

func compress(t testing.TB, plain []byte) []byte {
	t.Helper()
	out, err := gzip.New(0).Encode(plain)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAnyReaderReadsIt(t *testing.T) {
	e := gzip.New(100)
	for _, plain := range []string{"", "short", strings.Repeat("long ", 1000)} {
		encoded, err := e.Encode([]byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		r, err := stdgzip.NewReader(bytes.NewReader(encoded))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != plain {
			t.Errorf("%d bytes: read %d, %v", len(plain), len(got), err)
		}
		if got, err := e.Decode(encoded); err != nil || string(got) != plain {
			t.Errorf("%d bytes: Decode gave %d, %v", len(plain), len(got), err)
		}
	}
}

func TestItCompresses(t *testing.T) {
	plain := bytes.Repeat([]byte("long "), 1000)
	if n := len(compress(t, plain)); n > len(plain)/10 {
		t.Errorf("%d bytes became %d", len(plain), n)
	}
}

func TestBombIsRefused(t *testing.T) {
	var bomb bytes.Buffer
	w, err := stdgzip.NewWriterLevel(&bomb, stdgzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(make([]byte, gzip.DefaultMaxDecoded+1))
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := gzip.New(0).Decode(bomb.Bytes()); !errors.Is(err, task.ErrTooLarge) {
		t.Errorf("%d bytes that stand for one too many: %v, want ErrTooLarge", bomb.Len(), err)
	}
	limited := gzip.New(0, gzip.MaxDecoded(10))
	if _, err := limited.Decode(compress(t, make([]byte, 11))); !errors.Is(err, task.ErrTooLarge) {
		t.Errorf("11 bytes where 10 are allowed: %v, want ErrTooLarge", err)
	}
	if got, err := limited.Decode(compress(t, make([]byte, 10))); err != nil || len(got) != 10 {
		t.Errorf("10 bytes where 10 are allowed: %d, %v", len(got), err)
	}
}

func TestBadInput(t *testing.T) {
	whole := compress(t, []byte("payload"))
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-6] ^= 1 // in the checksum
	for name, encoded := range map[string][]byte{
		"nothing":      nil,
		"not gzip":     []byte(`{"a":1}`),
		"cut off":      whole[:len(whole)-1],
		"bad checksum": flipped,
		"two members":  append(bytes.Clone(whole), whole...),
		"trailing":     append(bytes.Clone(whole), 0),
	} {
		if got, err := gzip.New(0).Decode(encoded); err == nil {
			t.Errorf("%s: Decode = %q", name, got)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	e := gzip.New(8)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 50 {
				plain := bytes.Repeat([]byte{byte('a' + i)}, n)
				encoded, err := e.Encode(plain)
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := e.Decode(encoded); err != nil || !bytes.Equal(got, plain) {
					t.Errorf("Decode = %q, %v; want %q", got, err, plain)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzDecode(f *testing.F) {
	f.Add(compress(f, []byte("payload")))
	f.Add([]byte{0x1f, 0x8b})
	e := gzip.New(0, gzip.MaxDecoded(1<<16))
	f.Fuzz(func(t *testing.T, data []byte) {
		plain, err := e.Decode(data)
		if err != nil {
			return
		}
		if len(plain) > 1<<16 {
			t.Fatalf("%d bytes came out", len(plain))
		}
		back, err := e.Decode(compress(t, plain))
		if err != nil || !bytes.Equal(back, plain) {
			t.Fatalf("there and back: %q, %v; want %q", back, err, plain)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	e := gzip.New(0)
	plain := bytes.Repeat([]byte(`{"key":"value"},`), 256)
	b.SetBytes(int64(len(plain)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Encode(plain); err != nil {
			b.Fatal(err)
		}
	}
}
