package main

import (
	"bufio"
	"bytes"
	"crypto/sha1" // RFC 6455 section 4.2.2 wants it
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
)

const (
	megabyte    = 1 << 20
	chunkedSize = 64 << 10
	smallBody   = `{"id":4711,"name":"living room","state":"on","brightness":128,"updated":"2026-01-01T00:00:00Z"}` + "\n"
)

// answers are the complete responses of the backend, by the end of the path.
type answers struct {
	small, large, chunked []byte
}

func newAnswers() *answers {
	large := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: " + strconv.Itoa(megabyte) + "\r\n\r\n")
	chunked := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
	chunk := bytes.Repeat([]byte("postern "), 4096/8)
	for range chunkedSize / len(chunk) {
		chunked = append(chunked, strconv.FormatInt(int64(len(chunk)), 16)+"\r\n"...)
		chunked = append(chunked, chunk...)
		chunked = append(chunked, "\r\n"...)
	}
	return &answers{
		small:   []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(smallBody)) + "\r\n\r\n" + smallBody),
		large:   append(large, bytes.Repeat([]byte("postern "), megabyte/8)...),
		chunked: append(chunked, "0\r\n\r\n"...),
	}
}

// runBackend serves on a free loopback port, which it prints, until stdin
// ends.
func runBackend(stdin io.Reader, stdout io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, l.Addr())
	var serving sync.WaitGroup
	serving.Go(func() {
		a := newAnswers()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serveBackend(c, a) })
		}
	})
	_, _ = io.Copy(io.Discard, stdin)
	return l.Close() // connections end with the process
}

// request is what the backend has to know of a request.
type request struct {
	path    []byte // with the query
	length  int64  // -1: chunked
	upgrade bool
	key     string // Sec-WebSocket-Key
}

func serveBackend(c net.Conn, a *answers) {
	defer c.Close()
	br := bufio.NewReaderSize(c, 32<<10)
	for {
		r, err := readRequest(br)
		if err != nil {
			return
		}
		if r.upgrade {
			_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", acceptKey(r.key))
			_ = echoFrames(br, c)
			return
		}
		answer := a.small
		switch {
		case bytes.HasSuffix(r.path, []byte("/1m")):
			answer = a.large
		case bytes.HasSuffix(r.path, []byte("/chunked")):
			answer = a.chunked
		}
		if _, err := skipBody(br, r.length); err != nil {
			return
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

func readRequest(br *bufio.Reader) (request, error) {
	var r request
	line, err := br.ReadSlice('\n')
	if err != nil {
		return r, err
	}
	_, rest, _ := bytes.Cut(line, []byte(" "))
	path, _, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return r, fmt.Errorf("request line %q, want method, target and version", line)
	}
	r.path = append(r.path, path...)
	for {
		line, err = br.ReadSlice('\n')
		if err != nil {
			return r, err
		}
		name, value, more := field(line)
		switch {
		case !more:
			return r, nil
		case is(name, "content-length"):
			if r.length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return r, err
			}
		case is(name, "transfer-encoding"):
			r.length = -1
		case is(name, "upgrade"):
			r.upgrade = true
		case is(name, "sec-websocket-key"):
			r.key = string(value)
		}
	}
}

// field splits a line of a head; more is false for the empty line at its end.
func field(line []byte) (name, value []byte, more bool) {
	line = bytes.TrimRight(line, "\r\n")
	if len(line) == 0 {
		return nil, nil, false
	}
	name, value, _ = bytes.Cut(line, []byte(":"))
	return name, bytes.TrimSpace(value), true
}

// is compares a field name with one in lower case.
func is(name []byte, lower string) bool {
	return len(name) == len(lower) && bytes.EqualFold(name, []byte(lower))
}

// skipBody reads a body away: length bytes, or chunks if length is negative.
// It returns the number of bytes of the body.
func skipBody(br *bufio.Reader, length int64) (int64, error) {
	if length >= 0 {
		return discard(br, length)
	}
	var total int64
	for {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return total, err
		}
		size, _, _ := bytes.Cut(bytes.TrimSpace(line), []byte(";"))
		n, err := strconv.ParseInt(string(size), 16, 64)
		if err != nil {
			return total, err
		}
		if n == 0 {
			return total, skipTrailer(br)
		}
		if _, err := discard(br, n+2); err != nil {
			return total, err
		}
		total += n
	}
}

func discard(br *bufio.Reader, n int64) (int64, error) {
	var done int64
	for done < n {
		m, err := br.Discard(int(min(n-done, megabyte)))
		done += int64(m)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

func skipTrailer(br *bufio.Reader) error {
	for {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return err
		}
		if _, _, more := field(line); !more {
			return nil
		}
	}
}

// acceptKey answers a Sec-WebSocket-Key (RFC 6455 section 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

var errLongFrame = errors.New("WebSocket frame: more than 64 KB, want less")

// echoFrames sends back each frame a client sends, unmasked (RFC 6455 section
// 5.2). Frames are at most 64 KB long.
func echoFrames(br *bufio.Reader, w io.Writer) error {
	buf := make([]byte, 4+chunkedSize)
	for {
		first, err := br.ReadByte()
		if err != nil {
			return err
		}
		second, err := br.ReadByte()
		if err != nil {
			return err
		}
		length, head := int(second&0x7f), 2
		switch length {
		case 127:
			return errLongFrame
		case 126:
			var b [2]byte
			if _, err := io.ReadFull(br, b[:]); err != nil {
				return err
			}
			length, head = int(binary.BigEndian.Uint16(b[:])), 4
			binary.BigEndian.PutUint16(buf[2:], uint16(length))
			buf[1] = 126
		default:
			buf[1] = byte(length)
		}
		buf[0] = first
		var mask [4]byte
		if _, err := io.ReadFull(br, mask[:]); err != nil {
			return err
		}
		payload := buf[head : head+length]
		if _, err := io.ReadFull(br, payload); err != nil {
			return err
		}
		for i := range payload {
			payload[i] ^= mask[i&3]
		}
		if _, err := w.Write(buf[:head+length]); err != nil {
			return err
		}
	}
}
