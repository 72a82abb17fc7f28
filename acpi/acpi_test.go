package acpi

import (
	_ "embed"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/sysfs/sysfstest"
	"github.com/powerd/powerd/internal/units"
)

//go:embed testdata/ssdt.aml
var ssdt []byte

// machine lays out tables, and other files as a txtar archive.
func machine(t testing.TB, tables map[string][]byte, archive string) *sysfs.Reader {
	m, folder := sysfstest.Tree(t, archive)
	for name, data := range tables {
		file := filepath.Join(folder, tableDir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return sysfs.NewReader(m)
}

// fadt makes a FADT of a length and revision, its checksum right.
func fadt(length int, revision uint8, set func(b []byte)) []byte {
	b := make([]byte, length)
	copy(b, "FACP")
	binary.LittleEndian.PutUint32(b[4:], uint32(length))
	b[8] = revision
	copy(b[10:], "POWERDFIXTURE")
	if set != nil {
		set(b)
	}
	var sum byte
	for _, v := range b {
		sum += v
	}
	b[9] -= sum
	return b
}

func TestStaticObjects(t *testing.T) {
	r := machine(t, map[string][]byte{"SSDT1": ssdt}, "")
	info := Read(r)
	if w := r.Warnings(); len(w) != 0 {
		t.Errorf("warnings: %v", w)
	}
	wantPSS := []PSS{
		{`\_SB.CPUS.C000`, "SSDT1", []PState{{2400, 95000, 10, 11, 0, 0}, {800, 20000, 10, 11, 4, 4}}},
		{`\_SB.CPUS.C001`, "SSDT1", []PState{{1600, 48000, 10, 10, 2, 2}}},
	}
	if diff := cmp.Diff(wantPSS, info.PSS); diff != "" {
		t.Error(diff)
	}
	wantCST := []CST{{`\_SB.CPUS.C000`, "SSDT1", []CState{
		{1, 2, 1000, &GenericAddress{Space: 0x7F, Address: "0x0"}},
		{2, 50, 500, &GenericAddress{Space: 1, BitWidth: 8, Access: 1, Address: "0x84"}},
	}}}
	if diff := cmp.Diff(wantCST, info.CST); diff != "" {
		t.Error(diff)
	}
	ss1 := "SS1"
	wantSleep := map[string]SleepType{
		"S0": {0, 0, []uint64{0, 0, 0, 0}, "SSDT1", nil},
		"S1": {1, 1, []uint64{1, 1, 0, 0}, "SSDT1", &ss1},
		"S3": {5, 5, []uint64{5, 5}, "SSDT1", nil},
		"S5": {7, 0, []uint64{7, 0, 0, 0}, "SSDT1", nil},
	}
	if diff := cmp.Diff(wantSleep, info.Sleep); diff != "" {
		t.Error(diff)
	}
	if p := info.PSS[0].Power()[2400*units.MHz]; p != 95*units.Watt {
		t.Errorf("2400 MHz is %v", p)
	}
}

func TestFADT(t *testing.T) {
	old := fadt(116, 1, func(b []byte) { b[45], b[96], b[98] = 2, 1, 57 })
	mobile := fadt(244, 3, func(b []byte) { b[45], b[96] = 2, 101; binary.LittleEndian.PutUint16(b[98:], 1000) })
	reduced := fadt(276, 6, func(b []byte) { b[114] = 0x30; copy(b[268:], "QEMU") })
	r := machine(t, map[string][]byte{"FACP1": old, "FACP2": mobile, "FACP3": reduced, "SSDT": []byte("SSDT")}, "")
	info := Read(r)
	f := info.FADT
	if f["FACP1"].ProfileName != "Unspecified" || !f["FACP1"].C2 || !f["FACP1"].C3 || f["FACP1"].Reset != nil {
		t.Errorf("revision 1: %+v", f["FACP1"])
	}
	if f["FACP2"].ProfileName != "Mobile" || f["FACP2"].C2 || !f["FACP2"].C3 || f["FACP2"].Minor != nil || f["FACP2"].SleepControl != nil {
		t.Errorf("revision 3: %+v", f["FACP2"])
	}
	if x := f["FACP3"]; x.C2 || x.C3 || *x.HypervisorID != "QEMU" || !x.LowPowerS0() || *x.Minor != 0 {
		t.Errorf("hardware-reduced: %+v", x)
	}
	if w := r.Warnings(); len(w) != 1 || !strings.Contains(w[0].Problem, "table SSDT: 4 bytes are less than a table header's 36") {
		t.Errorf("warnings: %v", w)
	}
}

// Cut anywhere, a table gives a warning that names it and an offset, and what
// came before the cut.
func TestTruncated(t *testing.T) {
	for n := headerSize; n < len(ssdt); n++ {
		r := machine(t, map[string][]byte{"SSDT9": ssdt[:n]}, "")
		info := Read(r)
		w := r.Warnings()
		if len(w) == 0 || !strings.Contains(w[0].Problem, "table SSDT9: offset ") {
			t.Fatalf("cut at %d: %v", n, w)
		}
		if _, ok := info.Sleep["S0"]; !ok && n > 120 {
			t.Fatalf("cut at %d: what came before is lost", n)
		}
	}
	bad := append([]byte(nil), ssdt...)
	bad[len(bad)-1]++
	r := machine(t, map[string][]byte{"SSDT1": bad}, "")
	if info := Read(r); *info.Tables[0].ChecksumOK || len(r.Warnings()) == 0 {
		t.Error("a wrong checksum is not told")
	}
}

func TestOffers(t *testing.T) {
	r := machine(t, nil, `
-- sys/power/state --
freeze mem disk
-- sys/power/mem_sleep --
s2idle [deep]
-- sys/power/disk --
[platform] shutdown
-- sys/firmware/acpi/platform_profile --
balanced
-- sys/firmware/acpi/platform_profile_choices --
low-power balanced performance
-- sys/class/power_supply/AC/type --
Mains
-- sys/class/power_supply/AC/online --
0
-- sys/devices/system/cpu/cpu0/acpi_cppc/highest_perf --
166
-- sys/devices/system/cpu/cpu0/acpi_cppc/lowest_nonlinear_perf --
61
`)
	info := Read(r)
	var got []string
	for _, g := range []string{"G0", "G1", "G2", "G3"} {
		for _, o := range info.Offered[g] {
			got = append(got, g+" "+o.State)
		}
	}
	if diff := cmp.Diff([]string{"G0 S0", "G1 S0ix", "G1 S3", "G1 S4", "G3 G3"}, got); diff != "" {
		t.Error(diff)
	}
	if *info.PlatformProfile != "balanced" || len(info.Profiles) != 3 || *info.Supply != "battery" || *info.CPPC[0].LowestNonlinear != 61 {
		t.Errorf("%+v", info)
	}
	if none := Read(machine(t, nil, "")); none.FADT != nil || none.Sleep != nil || none.Offered != nil || none.Supply != nil || none.PSS != nil {
		t.Errorf("nothing reads as %+v", none)
	}
}

// Nesting must not exhaust the stack, nor lengths the memory.
func TestHostile(t *testing.T) {
	deep := append([]byte(nil), ssdt[:headerSize]...)
	for i := range 5000 { // packages in packages, each length saying "all that is left"
		left := 2*5000 - 2*i
		deep = append(deep, 0x12, 0x40|byte(left&0xF), byte(left>>4))
	}
	for _, body := range [][]byte{deep[headerSize:], {0x08}, {0x10, 0xFF, 0xFF, 0xFF, 0xFF}, {0x08, 0x2F, 0xFF}, {0x5B}, {0x11, 0x03, 0x0C}, {0xA0, 0x01}} {
		table := append(append([]byte(nil), ssdt[:headerSize]...), body...)
		ns := newNamespace()
		errs := parseAML(table, headerSize, ns, "x")
		if len(errs) == 0 || !strings.HasPrefix(errs[0].Error(), "offset ") {
			t.Errorf("body % x...: %v", body[:min(4, len(body))], errs)
		}
	}
}

func FuzzAML(f *testing.F) {
	f.Add(ssdt[headerSize:])
	f.Fuzz(func(t *testing.T, body []byte) {
		ns := newNamespace()
		for _, err := range parseAML(body, 0, ns, "x") {
			if !strings.HasPrefix(err.Error(), "offset ") {
				t.Errorf("the error names no offset: %v", err)
			}
		}
		sleepTypes(ns)
		for _, p := range ns.order {
			pStates(ns, ns.objects[p].value)
			cStates(ns, ns.objects[p].value)
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add(fadt(276, 6, nil))
	f.Add(ssdt)
	f.Add([]byte("FACS"))
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := parseTable("x", data)
		if err == nil {
			parseFADT(table.data) //nolint:errcheck // it must only not panic
		}
	})
}

func FuzzWords(f *testing.F) {
	f.Add("s2idle [deep]")
	f.Fuzz(func(t *testing.T, s string) {
		words, err := parseWords(s)
		for _, w := range words {
			if err == nil && strings.ContainsAny(w, " \n") {
				t.Errorf("%q is a word", w)
			}
		}
	})
}
