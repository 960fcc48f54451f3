package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weft/lab"
	"weft/lab/netns"
)

// requests are HTTP/1.1 requests of the sink, answered by the source with JSON
// text, at a fixed rate over a few connections. It knows how long each took.
type requests struct {
	rate int // a second
}

const (
	httpPort        = 8080
	httpConnections = 4
)

// answers are distinct, so that a batch of copies holds none twice.
var answers = makeAnswers(1024)

// makeAnswers writes lists of orders, 1 to 16 KB, as a shop's API would.
func makeAnswers(n int) [][]byte {
	random := rand.New(rand.NewPCG(3, 4))
	words := strings.Fields("alpha river stone paper copper linen maple harbour winter orchard lantern falcon meadow granite velvet cedar amber quartz juniper saddle")
	word := func() string { return words[random.IntN(len(words))] }
	out := make([][]byte, n)
	for i := range out {
		var body strings.Builder
		body.WriteString(`{"orders":[`)
		for size := 1000 + random.IntN(15000); body.Len() < size; {
			if body.Len() > 12 {
				body.WriteByte(',')
			}
			fmt.Fprintf(&body, `{"id":"%016x","customer":{"name":"%s %s","email":"%s.%d@example.com"},"item":"%s %s","quantity":%d,"price":%.2f,"created":"2026-%02d-%02dT%02d:%02d:%02dZ"}`,
				random.Uint64(), word(), word(), word(), random.IntN(1000), word(), word(), 1+random.IntN(9), random.Float64()*500,
				1+random.IntN(12), 1+random.IntN(28), random.IntN(24), random.IntN(60), random.IntN(60))
		}
		body.WriteString("]}")
		out[i] = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Mon, 02 Nov 2026 10:00:00 GMT\r\nServer: shop/2.4\r\nX-Request-Id: %016x\r\nContent-Length: %d\r\n\r\n%s",
			random.Uint64(), body.Len(), body.String())
	}
	return out
}

func (r requests) run(ctx context.Context, source, sink *lab.Host, length time.Duration) (t traffic, err error) {
	listener, err := listenTCP(source, httpPort)
	if err != nil {
		return t, err
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	type outcome struct {
		latencies []time.Duration
		bytes     int
		err       error
	}
	outcomes := make(chan outcome, httpConnections)
	began := time.Now()
	for i := range httpConnections {
		go func() {
			var o outcome
			o.latencies, o.bytes, o.err = r.ask(ctx, source, sink, began, length, i)
			outcomes <- o
		}()
	}
	var payload int
	for range httpConnections {
		o := <-outcomes
		if o.err != nil {
			err = o.err
		}
		t.latencies = append(t.latencies, o.latencies...)
		payload += o.bytes
	}
	t.rate = float64(payload) * 8 / time.Since(began).Seconds()
	return t, err
}

// ask sends its share of the requests, each when it is due. One that is late
// because the one before it was slow is reckoned from when it was due.
func (r requests) ask(ctx context.Context, source, sink *lab.Host, began time.Time, length time.Duration, number int) (latencies []time.Duration, bytes int, err error) {
	conn, err := dialTCP(sink, source, httpPort)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 64<<10)
	every := time.Second * httpConnections / time.Duration(r.rate)
	for i := 0; ctx.Err() == nil; i++ {
		due := began.Add(every*time.Duration(i) + every*time.Duration(number)/httpConnections)
		if due.Sub(began) > length {
			break
		}
		time.Sleep(time.Until(due))
		if now := time.Now(); now.Sub(due) < 2*time.Millisecond {
			due = now // the timer was late, not the network
		}
		request := fmt.Sprintf("GET /orders?page=%d HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: bench/1.0\r\nAccept: application/json\r\nAuthorization: Bearer %016x\r\n\r\n",
			i*httpConnections+number, i*7919)
		if _, err := io.WriteString(conn, request); err != nil {
			return latencies, bytes, err
		}
		n, err := readAnswer(in)
		if err != nil {
			return latencies, bytes, err
		}
		latencies = append(latencies, time.Since(due))
		bytes += n + len(request)
	}
	return latencies, bytes, nil
}

// readAnswer reads one response and returns its length.
func readAnswer(in *bufio.Reader) (n int, err error) {
	body := 0
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return n, err
		}
		n += len(line)
		if value, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			if body, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return n, err
			}
		}
		if line == "\r\n" {
			skipped, err := in.Discard(body)
			return n + skipped, err
		}
	}
}

func serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		page := 0
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			if line == "\r\n" {
				break
			}
			fmt.Sscanf(line, "GET /orders?page=%d", &page)
		}
		if _, err := conn.Write(answers[page%len(answers)]); err != nil {
			return
		}
	}
}

// bulk is one TCP connection from the source to the sink, as fast as it goes.
type bulk struct{}

func (bulk) run(ctx context.Context, source, sink *lab.Host, length time.Duration) (t traffic, err error) {
	listener, err := listenTCP(sink, httpPort+1)
	if err != nil {
		return t, err
	}
	defer listener.Close()
	got := make(chan int64, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			got <- 0
			return
		}
		defer conn.Close()
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 128<<10))
		got <- n
	}()
	conn, err := dialTCP(source, sink, httpPort+1)
	if err != nil {
		return t, err
	}
	chunk := make([]byte, 128<<10)
	for i := range chunk {
		chunk[i] = byte(rand.Uint32())
	}
	began := time.Now()
	for ctx.Err() == nil && time.Since(began) < length {
		if _, err = conn.Write(chunk); err != nil {
			break
		}
	}
	conn.Close()
	n := <-got
	t.rate = float64(n) * 8 / time.Since(began).Seconds()
	return t, err
}

// cubic makes a socket use the congestion control that most of the world uses,
// whatever the machine's default is.
func cubic(_, _ string, raw syscall.RawConn) (err error) {
	raw.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic") })
	return err
}

func listenTCP(h *lab.Host, port int) (l net.Listener, err error) {
	err = netns.Do(h.NetNS(), func() (err error) {
		config := net.ListenConfig{Control: cubic}
		l, err = config.Listen(context.Background(), "tcp4", ":"+strconv.Itoa(port))
		return err
	})
	return l, err
}

func dialTCP(from, to *lab.Host, port int) (conn net.Conn, err error) {
	address, err := net.ResolveTCPAddr("tcp4", net.JoinHostPort(to.Addresses()[0].String(), strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	// A literal address: the dialer looks nothing up and stays on this thread,
	// which is in the namespace.
	err = netns.Do(from.NetNS(), func() error {
		dialer := net.Dialer{Control: cubic, Timeout: 5 * time.Second}
		conn, err = dialer.Dial("tcp4", address.String())
		return err
	})
	return conn, err
}
