package sim

import "time"

// A queue tells which of things that are numbered is due next: the earliest, of several
// the one with the lowest number. It is a heap of four branches, for that touches fewer
// cache lines than one of two.
type queue struct {
	heap  []due
	place []int32 // in the heap, by number; -1 is not there
}

type due struct {
	at time.Duration
	id int32
}

func (d due) before(o due) bool { return d.at < o.at || d.at == o.at && d.id < o.id }

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
	if d.before(q.heap[i]) {
		q.up(i, d)
	} else {
		q.down(i, d)
	}
}

func (q *queue) up(i int, d due) {
	for i > 0 {
		parent := (i - 1) / 4
		p := q.heap[parent]
		if !d.before(p) {
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
		first := 4*i + 1
		if first >= len(h) {
			break
		}
		least, best := first, h[first]
		for k := first + 1; k < min(first+4, len(h)); k++ {
			if h[k].before(best) {
				least, best = k, h[k]
			}
		}
		if !best.before(d) {
			break
		}
		h[i], q.place[best.id] = best, int32(i)
		i = least
	}
	h[i], q.place[d.id] = d, int32(i)
}
