package h2

// closedRing remembers the streams closed last, and by whom: what comes on
// them is judged differently (RFC 9113 section 5.1).
type closedRing struct {
	ids  [64]uint32
	by   [64]closer
	next int
}

type closer uint8

const (
	unknown  closer = iota
	byUs            // we reset it; frames may be on their way
	byClient        // it reset it, or both sides were done
)

func (r *closedRing) add(id uint32, by closer) {
	r.ids[r.next], r.by[r.next] = id, by
	r.next = (r.next + 1) % len(r.ids)
}

func (r *closedRing) find(id uint32) closer {
	for i, v := range r.ids {
		if v == id {
			return r.by[i]
		}
	}
	return unknown
}
