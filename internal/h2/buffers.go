package h2

import "sync"

// buffers are recycled byte slices in a few sizes, so that an idle connection
// holds none and a small body no large one.
type buffers struct {
	pools [len(bufferSizes)]sync.Pool // of *[]byte
	boxes sync.Pool                   // of *[]byte that hold nothing
}

var bufferSizes = [...]int{1 << 10, 4 << 10, 17 << 10, 80 << 10, 272 << 10}

// get returns an empty slice with room for n bytes.
func (b *buffers) get(n int) []byte {
	for i, size := range bufferSizes {
		if n > size {
			continue
		}
		if v, _ := b.pools[i].Get().(*[]byte); v != nil {
			s := *v
			*v = nil
			b.boxes.Put(v)
			return s
		}
		return make([]byte, 0, size)
	}
	return make([]byte, 0, n)
}

// put takes s back; nothing may use it any more.
func (b *buffers) put(s []byte) {
	for i, size := range bufferSizes {
		if cap(s) == size {
			v, _ := b.boxes.Get().(*[]byte)
			if v == nil {
				v = new([]byte)
			}
			*v = s[:0]
			b.pools[i].Put(v)
			return
		}
	}
}

// room returns s with room for n more bytes, moved to a larger buffer if
// need be.
func (b *buffers) room(s []byte, n int) []byte {
	if cap(s)-len(s) >= n {
		return s
	}
	t := append(b.get(len(s)+n), s...)
	b.put(s)
	return t
}
