package daemon

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/internal/units"
)

func TestParseStat(t *testing.T) {
	const file = "cpu  30 0 0 70 0 0 0 0 0 0\ncpu0 10 1 2 70 5 3 4 6 9 9\ncpu2 1 0 0 9\nintr 5\ncpu3 junk\n"
	busy, total, err := parseStat([]byte(file))
	ms := 10 * time.Millisecond
	if err != nil || !cmp.Equal(busy, []time.Duration{26 * ms, 0, ms}) || !cmp.Equal(total, []time.Duration{101 * ms, 0, 10 * ms}) {
		t.Errorf("%v, %v, %v", busy, total, err)
	}
	for _, bad := range []string{"", "intr 5", "cpu0 1 2 3\n", "cpu99999999 1 2 3 4\n", "cpu0 999999999999999 0 0 0\n"} {
		if _, _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("cpu  1 0 0 1\ncpu0 10 1 2 70 5 3 4 6 9 9\ncpu17 1 0 0 9\n")
	f.Fuzz(func(t *testing.T, s string) {
		busy, total, err := parseStat([]byte(s))
		if err != nil {
			return
		}
		if len(busy) == 0 || len(busy) != len(total) {
			t.Fatalf("%q: %d and %d cpus", s, len(busy), len(total))
		}
		for c := range busy {
			if busy[c] < 0 || busy[c] > total[c] {
				t.Fatalf("%q: cpu%d busy %v of %v", s, c, busy[c], total[c])
			}
		}
	})
}

func FuzzParseTimeInState(f *testing.F) {
	f.Add("600000 10\n1200000 25\n")
	f.Fuzz(func(t *testing.T, s string) {
		at, err := parseTimeInState([]byte(s), func(f units.Frequency) int { return int(f%3) - 1 }, 2)
		if err != nil {
			return
		}
		if len(at) != 2 || strings.TrimSpace(s) == "" && at[0]+at[1] != 0 {
			t.Fatalf("%q: %v", s, at)
		}
	})
}
