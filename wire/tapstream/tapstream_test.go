package tapstream

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

func one(t *testing.T, b []byte, want Type) []byte {
	t.Helper()
	got, payload, err := NewReader(bytes.NewReader(b)).Next()
	if err != nil || got != want {
		t.Fatalf("type %d, error %v; want type %d", got, err, want)
	}
	return payload
}

func TestControlMessagesSurvive(t *testing.T) {
	totals := Totals{1, 2, 3, 4}
	hello := Hello{Min: 1, Max: 3, Line: "uid/ids", Epoch: 7, Next: 9}
	if got, err := ParseHello(one(t, hello.Append(nil), TypeHello)); err != nil || got != hello {
		t.Errorf("hello: %+v %v", got, err)
	}
	accept := Accept{Version: 1, Instance: 5, Last: 6, Totals: totals}
	if got, err := ParseAccept(one(t, accept.Append(nil), TypeAccept)); err != nil || got != accept {
		t.Errorf("accept: %+v %v", got, err)
	}
	refuse := Refuse{Code: CodeDevice, Text: "no"}
	if got, err := ParseRefuse(one(t, refuse.Append(nil), TypeRefuse)); err != nil || got != refuse {
		t.Errorf("refuse: %+v %v", got, err)
	}
	ack := Ack{Sequence: 9, Totals: totals}
	if got, err := ParseAck(one(t, ack.Append(nil), TypeAck)); err != nil || got != ack {
		t.Errorf("ack: %+v %v", got, err)
	}
	if got, err := ParseToken(one(t, AppendPing(nil, 12), TypePing)); err != nil || got != 12 {
		t.Errorf("ping: %d %v", got, err)
	}
	names := []Name{{1, "host"}, {2, ""}, {70000, "container"}}
	if got, err := ParseNames(one(t, AppendNames(nil, names), TypeNames)); err != nil || cmp.Diff(got, names) != "" {
		t.Errorf("names: %v %v", got, err)
	}
}

func TestManyNamesTakeSeveralMessages(t *testing.T) {
	var names, got []Name
	for i := range 1024 {
		names = append(names, Name{Number: uint32(i), ID: string(bytes.Repeat([]byte("x"), MaxWorkload))})
	}
	r := NewReader(bytes.NewReader(AppendNames(nil, names)))
	for {
		_, payload, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		part, err := ParseNames(payload)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, part...)
	}
	if cmp.Diff(got, names) != "" {
		t.Error("names differ")
	}
}

func TestLengthIsCheckedBeforeReading(t *testing.T) {
	for name, header := range map[string][]byte{
		"unknown type":  {99, 0, 0, 0, 0, 0, 0, 0},
		"reserved set":  {1, 1, 0, 0, 0, 0, 0, 0},
		"long control":  {1, 0, 0, 0, 0, 0, 0x10, 1},
		"long batch":    {5, 0, 0, 0, 0, 8, 0, 1},
		"longest batch": {5, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
	} {
		r := NewReader(bytes.NewReader(header))
		if _, _, err := r.Next(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		if cap(r.buf) != 0 {
			t.Errorf("%s: allocated %d bytes", name, cap(r.buf))
		}
	}
}

func records(rng *rand.Rand, n int) []Record {
	list := make([]Record, n)
	for i := range list {
		data := make([]byte, rng.IntN(1500))
		for j := range data {
			data[j] = byte(rng.IntN(8))
		}
		list[i] = Record{Time: 1e18 + int64(i)*1000 - int64(rng.IntN(5000)), Length: uint32(len(data) + rng.IntN(9000)), Workload: rng.Uint32(),
			GSOSize: uint16(rng.Uint32()), Segments: uint16(1 + rng.IntN(40)), VLANTCI: uint16(rng.Uint32()), VLANProto: 0x8100, Flags: uint8(rng.Uint32()) & 15, Data: data}
	}
	return list
}

func TestBatchesSurvive(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, compressible := range []bool{true, false} {
		want := records(rng, 80)
		if !compressible {
			for i := range want {
				for j := range want[i].Data {
					want[i].Data[j] = byte(rng.Uint32())
				}
			}
		}
		var e Encoder
		var packets, size uint64
		for i := range want {
			if !e.Add(&want[i]) {
				t.Fatal("batch full early")
			}
			packets += uint64(want[i].Segments)
			size += uint64(want[i].Length)
		}
		batch, err := ParseBatch(one(t, e.Seal(nil, 17), TypeBatch))
		if err != nil || batch.Sequence != 17 || uint64(batch.Packets) != packets || batch.Bytes != size {
			t.Fatalf("%+v %v", batch, err)
		}
		if (batch.codec == codecS2) != compressible {
			t.Errorf("codec %d", batch.codec)
		}
		var d Decoder
		if err := d.Open(batch); err != nil {
			t.Fatal(err)
		}
		var got []Record
		for {
			var r Record
			more, err := d.Next(&r)
			if err != nil {
				t.Fatal(err)
			}
			if !more {
				break
			}
			got = append(got, r)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestTimesFarApartNeedTwoBatches(t *testing.T) {
	var e Encoder
	if !e.Add(&Record{Time: 1e18, Segments: 1}) || e.Add(&Record{Time: 1e18 + 3e9, Segments: 1}) {
		t.Error("3 s apart in one batch")
	}
}

func TestEncodeAndDecodeAllocateNothing(t *testing.T) {
	list := records(rand.New(rand.NewPCG(3, 4)), 64)
	var e Encoder
	var d Decoder
	out := make([]byte, 0, MaxBatch)
	var seq uint64
	if n := testing.AllocsPerRun(100, func() {
		seq++
		for i := range list {
			e.Add(&list[i])
		}
		out = e.Seal(out[:0], seq)
		b, err := ParseBatch(out[HeaderLen:])
		if err != nil || d.Open(b) != nil {
			t.Fatal("does not decode")
		}
		var r Record
		for more := true; more; {
			more, _ = d.Next(&r)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDecode(f *testing.F) {
	var e Encoder
	for _, r := range records(rand.New(rand.NewPCG(5, 6)), 5) {
		e.Add(&r)
	}
	seed := e.Seal(nil, 1)
	seed = AppendNames(seed, []Name{{1, "a"}})
	seed = Hello{Min: 1, Max: 1, Line: "l"}.Append(seed)
	seed = Accept{Version: 1, Instance: 2}.Append(seed)
	seed = Ack{Sequence: 3}.Append(Refuse{Text: "x"}.Append(seed))
	f.Add(seed)
	f.Add(AppendPing(nil, 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data))
		var d Decoder
		for {
			kind, payload, err := r.Next()
			if err != nil {
				return
			}
			switch kind {
			case TypeHello:
				if h, err := ParseHello(payload); err == nil && !bytes.Equal(h.Append(nil)[HeaderLen:], payload) {
					t.Fatal("hello changes")
				}
			case TypeAccept:
				if a, err := ParseAccept(payload); err == nil && !bytes.Equal(a.Append(nil)[HeaderLen:], payload) {
					t.Fatal("accept changes")
				}
			case TypeRefuse:
				ParseRefuse(payload)
			case TypeNames:
				ParseNames(payload)
			case TypeAck:
				ParseAck(payload)
			case TypePing, TypePong:
				ParseToken(payload)
			case TypeBatch:
				b, err := ParseBatch(payload)
				if err != nil || d.Open(b) != nil {
					continue
				}
				var rec Record
				for more := true; more && err == nil; {
					more, err = d.Next(&rec)
				}
			}
		}
	})
}

func mixed() []byte {
	rng := rand.New(rand.NewPCG(7, 8))
	b := make([]byte, 0, 64<<10)
	for len(b) < 60<<10 {
		b = append(b, "GET /orders?id=42 HTTP/1.1\r\nHost: shop.example\r\nAccept: application/json\r\nUser-Agent: curl/7.88\r\n\r\n"...)
		for range 300 {
			b = append(b, byte(rng.Uint32()))
		}
	}
	return b
}

func BenchmarkSeal(b *testing.B) {
	payload := mixed()
	var e Encoder
	out := make([]byte, 0, MaxBatch)
	b.SetBytes(int64(80 * 1448))
	b.ReportAllocs()
	for b.Loop() {
		for i := range 80 {
			off := i * 500 % (len(payload) - 1448)
			e.Add(&Record{Time: 1, Length: 1448, Segments: 1, Data: payload[off : off+1448]})
		}
		out = e.Seal(out[:0], 1)
	}
}

func BenchmarkCodec(b *testing.B) {
	payload := mixed()
	b.Run("s2", func(b *testing.B) {
		dst := make([]byte, s2.MaxEncodedLen(len(payload)))
		b.SetBytes(int64(len(payload)))
		var n int
		for b.Loop() {
			n = len(s2.Encode(dst, payload))
		}
		b.ReportMetric(float64(len(payload))/float64(n), "ratio")
	})
	b.Run("zstd", func(b *testing.B) {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
		if err != nil {
			b.Fatal(err)
		}
		var dst []byte
		b.SetBytes(int64(len(payload)))
		for b.Loop() {
			dst = enc.EncodeAll(payload, dst[:0])
		}
		b.ReportMetric(float64(len(payload))/float64(len(dst)), "ratio")
	})
}
