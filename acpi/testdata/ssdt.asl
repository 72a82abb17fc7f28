// A fixture: every shape in which firmwares write the packages that powerd reads.
// Compiled by: iasl -p ssdt ssdt.asl
DefinitionBlock ("", "SSDT", 2, "POWERD", "FIXTURE", 1) {
  External (\_SB.CPUS.C000, DeviceObj)
  External (\_SB.CPUS.C001, DeviceObj)
  External (SS1, IntObj)
  Name (\_S0, Package() { 0, 0, 0, 0 })
  If (SS1) { Name (\_S1, Package() { One, One, 0, 0 }) }
  Name (\_S3, Package(2) { 0x05, 0x05 })
  Name (\_S5, Package() { 0x07, Zero, 0, 0 })
  OperationRegion (PGR, SystemIO, 0x80, 0x10)
  Field (PGR, ByteAcc, NoLock, Preserve) { Offset(0x1), P2, 8, P3, 8 }
  Mutex (MTX, 0)
  Name (BUF, Buffer(4) { 1, 2 })
  CreateWordField (BUF, 1, WRD)
  Method (SUM, 2) { Return (Add (Arg0, Arg1)) }
  Scope (\_SB) {
    Name (PSSP, Package() {
      Package() { 2400, 95000, 10, 11, 0, 0 },
      Package() { 800, 20000, 10, 11, 4, 4 },
      Package() { 0xFFFFFFFF, 0, 0, 0, 0, 0 },   // padding: no clock that cpufreq could hold
    })
    Name (CSTP, Package() { 2,
      Package() { ResourceTemplate () { Register (FFixedHW, 0, 0, 0, 0) }, 1, 2, 1000 },
      Package() { ResourceTemplate () { Register (SystemIO, 8, 0, 0x84, 1) }, 2, 50, 500 },
    })
  }
  Scope (\_SB.CPUS.C000) {
    Method (_PSS, 0) { Return (\_SB.PSSP) }
    Method (_CST, 0) { Return (CSTP) }
    Method (_PPC, 0) { If (LEqual (SUM (1, 2), 3)) { Return (1) } Return (0) }
  }
  Scope (\_SB.CPUS.C001) {
    Name (_PSS, Package() { Package() { 1600, 48000, 10, 10, 2, 2 } })
    If (LEqual (SUM (1, 2), 3)) { Name (LATE, 1) }
  }
  Device (\_SB.PMT0) {
    Name (_HID, "ACPI000D")
    PowerResource (PRES, 0, 0) { Method (_STA) { Return (1) } }
  }
}
