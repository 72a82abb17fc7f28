package units

import (
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Frequency
		ok   bool
	}{
		{"1800MHz", 1800 * MHz, true},
		{"1.8GHz", 1800 * MHz, true},
		{" 1.8 GHz ", 1800 * MHz, true},
		{"533kHz", 533, true},
		{"1e3MHz", 1000 * MHz, true},
		{"1800", 0, false},
		{"1800Mhz", 0, false},
		{"-1MHz", 0, false},
		{"MHz", 0, false},
		{"", 0, false},
		{"0x10MHz", 0, false},
		{"1_0MHz", 0, false},
		{"1e300GHz", 0, false},
		{"NaNMHz", 0, false},
	} {
		got, err := ParseFrequency(tt.in)
		if (err == nil) != tt.ok || got != tt.want {
			t.Errorf("ParseFrequency(%q) = %d, %v; want %d, ok %v", tt.in, got, err, tt.want, tt.ok)
		}
	}
	if s, err := ParseSeconds("85us"); err != nil || s != 85e-6 {
		t.Errorf("ParseSeconds(85us) = %v, %v", float64(s), err)
	}
	for text, want := range map[string]Power{"2W": 2 * Watt, "2J/s": 2 * Watt, "90J/60s": 1500 * Milliwatt, "1mJ/ms": Watt} {
		if p, err := ParseBudget(text); err != nil || p != want {
			t.Errorf("ParseBudget(%s) = %v, %v", text, p, err)
		}
	}
	for _, text := range []string{"", "2", "2J", "J/s", "2J/0s", "2J/", "2W/s", "2J/s/s"} {
		if p, err := ParseBudget(text); err == nil {
			t.Errorf("ParseBudget(%q) = %v", text, p)
		}
	}
	if p, err := ParsePower("1.85W"); err != nil || p != 1850*Milliwatt {
		t.Errorf("ParsePower(1.85W) = %v, %v", p, err)
	}
	if v, err := ParseVoltage("825mV"); err != nil || v != 825*Millivolt {
		t.Errorf("ParseVoltage(825mV) = %v, %v", v, err)
	}
	if c, err := ParseCost("90uJ"); err != nil || c != 90 {
		t.Errorf("ParseCost(90uJ) = %v, %v", c, err)
	}
}

func TestString(t *testing.T) {
	for want, got := range map[string]string{
		"1800 MHz":  (1800 * MHz).String(),
		"533.5 MHz": (533*MHz + 500).String(),
		"1.85 W":    (1850 * Milliwatt).String(),
		"600 mW":    (600 * Milliwatt).String(),
		"12.5 J":    (12500 * Millijoule).String(),
		"85 us":     Seconds(85e-6).String(),
		"0 uJ":      Cost(0).String(),
		"1200 mV":   (1200 * Millivolt).String(),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"1800MHz", "1.8 GHz", "85us", "0.1mJ", "1.2V", "-1W", "1e999s", ".s", "µs"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, parse := range []func(string) (float64, error){
			func(s string) (float64, error) { v, err := ParseFrequency(s); return float64(v), err },
			func(s string) (float64, error) { v, err := ParseVoltage(s); return float64(v), err },
			func(s string) (float64, error) { v, err := ParsePower(s); return float64(v), err },
			func(s string) (float64, error) { v, err := ParseCost(s); return float64(v), err },
			func(s string) (float64, error) { v, err := ParseSeconds(s); return float64(v), err },
		} {
			if v, err := parse(s); err == nil && !(v >= 0 && v < 1e300*1e6) {
				t.Errorf("%q parses as %v", s, v)
			}
		}
	})
}
