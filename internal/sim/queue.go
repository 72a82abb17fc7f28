package sim

import "time"

// A queue tells which of things that are numbered is due next: the earliest, of several
// the one with the lowest number. It is a tree of knock-out rounds between neighbours: a
// thing that changes plays as many rounds as there are, without a branch that depends on
// the outcome, for every other one would be mispredicted.
type queue struct {
	size int           // of the first round, a power of two
	tree []due         // the winner of all at 1, the two that it comes from at 2 and 3, and so on
	next due           // what is due first
	key  time.Duration // when that is, and the kind: the least of several queues' is first
	kind time.Duration
}

type due struct {
	at time.Duration
	id int
}

func newQueue(kind, size int) queue {
	q := queue{kind: time.Duration(kind), size: 1, tree: []due{{at: never}, {at: never}}}
	q.grow(size)
	return q
}

func (q *queue) grow(size int) {
	old := q.tree[q.size:]
	for q.size < size {
		q.size *= 2
	}
	q.tree = make([]due, 2*q.size)
	for i := range q.tree {
		q.tree[i] = due{never, i % q.size}
	}
	for _, d := range old {
		q.set(d.id, d.at)
	}
	q.set(0, q.at(0)) // whoever was there, for next and key
}

// set makes a thing due at a time, at never not at all.
func (q *queue) set(id int, at time.Duration) {
	if id >= q.size {
		q.grow(id + 1)
	}
	tree, d := q.tree, due{at, id}
	i := q.size + id
	for tree[i] = d; i > 1; tree[i] = d {
		// The left neighbour, whose index is even, wins a tie.
		other := tree[i^1]
		if other.at-time.Duration(i&1) < d.at {
			d = other
		}
		i /= 2
	}
	q.next, q.key = d, d.at<<kindBits|q.kind
}

// at is when a thing is due.
func (q *queue) at(id int) time.Duration { return q.tree[q.size+id].at }

// all are the things by number.
func (q *queue) all() []due { return q.tree[q.size:] }
