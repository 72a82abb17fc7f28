package testbed

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/powerd/powerd/internal/units"
)

// The ports that stand for hardware: the eight ISA DMA page registers, which QEMU
// keeps as plain bytes, readable and writable from inside and from outside.
// Domain i's control and status register is pstatePorts[i]; with a meter the last
// two are its milliwatts, low byte first, adjacent so that one 16-bit access
// reads both.
//
// See QEMU's hw/dma/i8257.c.
var (
	pstatePorts = []int{0x82, 0x83, 0x81, 0x87, 0x89, 0x8f, 0x8a, 0x8b}
	meterPorts  = pstatePorts[6:]
)

// Ports that PortIdle's states read; nothing answers there.
const firstIdlePort = 0x84

// asl writes the node's SSDT: _PCT, _PSS, _PPC, _PSD and _CST for every cpu and
// the power meter. c has its defaults.
//
// See ACPI 6.5, sections 8.4 (processors) and 10.4 (power meters).
func asl(c Config) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(`DefinitionBlock ("", "SSDT", 2, "POWERD", "TESTBED", 1) {`)
	for cpu := range c.CPUs() {
		p(`  External (\_SB.CPUS.C%03X, DeviceObj)`, cpu)
	}
	p(`  Scope (\_SB) {`)
	p(`    // MHz, mW, transition us, bus master us, control, status; fastest first`)
	p(`    Name (PSSP, Package () {`)
	for state := range c.Curve.OPPs {
		i := len(c.Curve.OPPs) - 1 - state
		p(`      Package () { %d, %d, %d, %d, %d, %d },`, c.Curve.OPPs[i].Frequency/units.MHz,
			int(math.Round(float64(c.PSSPower[i]/units.Milliwatt))), micros(c.Latency), micros(c.Latency), state, state)
	}
	p(`    })`)
	p(`    // register, type, latency us, mW`)
	p(`    Name (CSTP, Package () { %d,`, len(c.Idle))
	for i, s := range c.Idle {
		// A state of type C1 in fixed hardware is entered by HLT, whatever its
		// latency; types C2 and C3 are entered by a port.
		kind, register := 1, "FFixedHW, 0, 0, 0, 0"
		if c.PortIdle && i > 0 {
			kind, register = min(i+1, 3), fmt.Sprintf("SystemIO, 8, 0, 0x%02x, 1", firstIdlePort+i-1)
		}
		p(`      Package () { ResourceTemplate () { Register (%s) }, %d, %d, %d },`,
			register, kind, micros(s.Entry+s.Exit), int(math.Round(float64(s.Power/units.Milliwatt))))
	}
	p(`    })`)
	if c.Meter {
		p(`    OperationRegion (MTRP, SystemIO, 0x%02x, 2)`, meterPorts[0])
		p(`    Field (MTRP, WordAcc, NoLock, Preserve) { MTRV, 16 }`)
		p(`    Device (PMT0) {`)
		p(`      Name (_HID, "ACPI000D")`)
		p(`      Name (_UID, 0)`)
		// Capabilities (measures), unit mW, type input, accuracy 99 %, sampling
		// ms, averaging interval ms min and max, hysteresis, hw limit...
		p(`      Name (_PMC, Package () { 1, 0, 0, 99000, %d, %d, 1000, 0, 0, 0, 0, "TESTBED", "0", "POWERD" })`,
			meterPeriod.Milliseconds(), meterPeriod.Milliseconds())
		p(`      Name (_PMD, Package () {})`)
		p(`      Name (_GAI, %d)`, meterPeriod.Milliseconds())
		p(`      Method (_PMM, 0) { Return (MTRV) }`)
		p(`    }`)
	}
	p(`  }`)
	for i, d := range c.Domains {
		for cpu := range d.All() {
			register := fmt.Sprintf("ResourceTemplate () { Register (SystemIO, 8, 0, 0x%02x, 1) }", pstatePorts[i])
			p(`  Scope (\_SB.CPUS.C%03X) {`, int(cpu))
			p(`    Name (_PCT, Package () { %s, %s })`, register, register)
			p(`    Method (_PSS, 0) { Return (\_SB.PSSP) }`)
			p(`    Name (_PPC, 0)`)
			// 0xFD, SW_ANY: the clock is shared, and one cpu's write moves all.
			p(`    Name (_PSD, Package () { Package () { 5, 0, %d, 0xFD, %d } })`, i, d.Len())
			p(`    Method (_CST, 0) { Return (\_SB.CSTP) }`)
			p(`  }`)
		}
	}
	p(`}`)
	return b.String()
}

func micros(s units.Seconds) int { return int(math.Round(float64(s) * 1e6)) }

// compileSSDT writes the node's SSDT into dir and returns its name.
func compileSSDT(ctx context.Context, dir string, c Config) (string, error) {
	if err := os.WriteFile(filepath.Join(dir, "ssdt.asl"), []byte(asl(c)), 0o644); err != nil {
		return "", err
	}
	if _, err := tool(ctx, dir, "iasl", "-p", "ssdt", "ssdt.asl"); err != nil {
		return "", fmt.Errorf("cannot compile the node's SSDT: %w", err)
	}
	return filepath.Join(dir, "ssdt.aml"), nil
}
