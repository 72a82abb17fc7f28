package sim

import (
	"math/bits"
	"time"
)

// A queue tells which of things that are numbered is due next: the earliest, of several
// the one with the lowest number. It is a heap of four branches, for that touches fewer
// cache lines than one of two.
type queue struct {
	heap  []due
	place []int32       // in the heap, by number; -1 is not there
	next  time.Duration // when the first is due
}

type due struct {
	at time.Duration
	id int32
}

// before is 1 if d comes first, else 0: a subtraction of 128 bits, for a branch here would
// be mispredicted every other time.
func (d due) before(o due) int {
	_, borrow := bits.Sub64(uint64(d.id), uint64(o.id), 0)
	_, borrow = bits.Sub64(uint64(d.at), uint64(o.at), borrow)
	return int(borrow)
}

// set makes a thing due at a time, at never not at all.
func (q *queue) set(id int, at time.Duration) {
	for id >= len(q.place) {
		q.place = append(q.place, -1)
	}
	i := int(q.place[id])
	switch {
	case i < 0 && at == never:
	case i < 0:
		q.heap = append(q.heap, due{})
		q.up(len(q.heap)-1, due{at, int32(id)})
	case at == never:
		q.place[id] = -1
		last := q.heap[len(q.heap)-1]
		q.heap = q.heap[:len(q.heap)-1]
		if i < len(q.heap) {
			q.put(i, last)
		}
	case q.heap[i].at != at:
		q.put(i, due{at, int32(id)})
	}
	if q.next = never; len(q.heap) > 0 {
		q.next = q.heap[0].at
	}
}

// at is when a thing is due.
func (q *queue) at(id int) time.Duration {
	if id < len(q.place) && q.place[id] >= 0 {
		return q.heap[q.place[id]].at
	}
	return never
}

// put lets d take the place of what is at i.
func (q *queue) put(i int, d due) {
	if d.before(q.heap[i]) > 0 {
		q.up(i, d)
	} else {
		q.down(i, d)
	}
}

func (q *queue) up(i int, d due) {
	for i > 0 {
		parent := (i - 1) / 4
		p := q.heap[parent]
		if d.before(p) == 0 {
			break
		}
		q.heap[i], q.place[p.id] = p, int32(i)
		i = parent
	}
	q.heap[i], q.place[d.id] = d, int32(i)
}

func (q *queue) down(i int, d due) {
	h := q.heap
	for {
		least := 4*i + 1
		if least+3 < len(h) {
			a := least + h[least+1].before(h[least])
			b := least + 2 + h[least+3].before(h[least+2])
			least = a + (b-a)*h[b].before(h[a])
		} else {
			for k := least + 1; k < len(h); k++ {
				least += (k - least) * h[k].before(h[least])
			}
		}
		if least >= len(h) || h[least].before(d) == 0 {
			break
		}
		best := h[least]
		h[i], q.place[best.id] = best, int32(i)
		i = least
	}
	h[i], q.place[d.id] = d, int32(i)
}
