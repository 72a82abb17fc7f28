package cpuset

import (
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		ok       bool
	}{
		{"", "", true},
		{"\n", "", true},
		{"0", "0", true},
		{"0-3,8\n", "0-3,8", true},
		{"8,0-3", "0-3,8", true},
		{"0-1,2-3", "0-3", true},
		{"0-7:1/2", "0,2,4,6", true},
		{"0-7:2/4", "0-1,4-5", true},
		{"64-127", "64-127", true},
		{"3-0", "", false},
		{"0-", "", false},
		{"-3", "", false},
		{"a", "", false},
		{"0,,1", "", false},
		{"0:1/2", "", false},
		{"0-7:0/2", "", false},
		{"0-7:3/2", "", false},
		{"65536", "", false},
		{"99999999999999999999", "", false},
	} {
		got, err := Parse(tt.in)
		if (err == nil) != tt.ok || got.String() != tt.want {
			t.Errorf("Parse(%q) = %q, %v; want %q, ok %v", tt.in, got, err, tt.want, tt.ok)
		}
	}
}

func TestParseMask(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		ok       bool
	}{
		{"3", "0-1", true},
		{"00000001,00000003\n", "0-1,32", true},
		{"1,00000000,00000000", "64", true},
		{"0", "", true},
		{"", "", false},
		{"xyz", "", false},
		{"1ffffffff", "", false},
	} {
		got, err := ParseMask(tt.in)
		if (err == nil) != tt.ok || got.String() != tt.want {
			t.Errorf("ParseMask(%q) = %q, %v; want %q, ok %v", tt.in, got, err, tt.want, tt.ok)
		}
	}
}

func TestAlgebra(t *testing.T) {
	a, b := Range(0, 70), Of(3, 70, 200)
	for want, got := range map[string]Set{
		"0-70,200": a.Union(b),
		"3,70":     a.Intersect(b),
		"0-2,4-69": a.Minus(b),
		"200":      b.Minus(a),
		"":         a.Minus(a),
		"0-70":     a,
		"3,70,200": b,
	} {
		if got.String() != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if !a.Minus(a).Equal(Set{}) || !a.Minus(a).Empty() {
		t.Error("the empty set has more than one form")
	}
	if !Of(3, 70).SubsetOf(a) || b.SubsetOf(a) || !a.Overlaps(b) || a.Overlaps(Of(300)) {
		t.Error("SubsetOf or Overlaps is wrong")
	}
	if a.Len() != 71 || b.Min() != 3 || (Set{}).Min() != -1 || a.Contains(-1) || !b.Contains(200) {
		t.Error("Len, Min or Contains is wrong")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0-3,8", "", "0-31:1/2", "5-2", "65535", "0-65535", ",", "1-2-3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := Parse(s)
		if err != nil {
			return
		}
		b, err := Parse(a.String())
		if err != nil || !a.Equal(b) || len(b.List()) != a.Len() {
			t.Errorf("%q parses as %q, which parses as %q, %v", s, a, b, err)
		}
	})
}

func FuzzParseMask(f *testing.F) {
	f.Add("ff")
	f.Add("00000001,00000003")
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := ParseMask(s); err == nil {
			if b, err := Parse(a.String()); err != nil || !a.Equal(b) {
				t.Errorf("%q parses as %q, which parses as %q, %v", s, a, b, err)
			}
		}
	})
}
