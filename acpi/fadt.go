package acpi

import (
	"encoding/binary"
	"fmt"
)

// A FADT is the Fixed ACPI Description Table (ACPI 6.5, 5.2.9). Fields that its
// length does not reach are nil.
type FADT struct {
	Length   uint32 `json:"length"`
	Revision uint8  `json:"revision"`
	Minor    *uint8 `json:"minor_revision"`
	// Profile is what the machine's maker thinks it is: 1 desktop, 2 mobile, ...
	Profile     uint8  `json:"preferred_pm_profile"`
	ProfileName string `json:"preferred_pm_profile_name"`
	SCI         uint16 `json:"sci_int"`
	SMICmd      string `json:"smi_cmd"`
	Enable      uint8  `json:"acpi_enable"`
	Disable     uint8  `json:"acpi_disable"`
	S4BIOS      uint8  `json:"s4bios_req"`
	PStateCnt   uint8  `json:"pstate_cnt"`
	PM1aEvt     string `json:"pm1a_evt_blk"`
	PM1bEvt     string `json:"pm1b_evt_blk"`
	PM1aCnt     string `json:"pm1a_cnt_blk"`
	PM1bCnt     string `json:"pm1b_cnt_blk"`
	PM2Cnt      string `json:"pm2_cnt_blk"`
	PMTimer     string `json:"pm_tmr_blk"`
	CSTCnt      uint8  `json:"cst_cnt"`
	// C2Latency and C3Latency are worst-case latencies in microseconds; above
	// 100 and 1000 the state is not supported (P_LVL2_LAT, P_LVL3_LAT). A
	// hardware-reduced machine has neither.
	C2Latency    uint16          `json:"p_lvl2_lat_us"`
	C3Latency    uint16          `json:"p_lvl3_lat_us"`
	C2           bool            `json:"c2_supported_by_fadt"`
	C3           bool            `json:"c3_supported_by_fadt"`
	DutyOffset   uint8           `json:"duty_offset"`
	DutyWidth    uint8           `json:"duty_width"`
	Century      uint8           `json:"century"`
	BootArch     string          `json:"iapc_boot_arch"`
	Flags        string          `json:"flags"`
	FlagsSet     []string        `json:"flags_set"`
	PowerButton  string          `json:"power_button"`
	SleepButton  string          `json:"sleep_button"`
	Reset        *GenericAddress `json:"reset_register"`
	ResetValue   *uint8          `json:"reset_value"`
	ARMBootArch  *string         `json:"arm_boot_arch"`
	SleepControl *GenericAddress `json:"sleep_control_register"`
	SleepStatus  *GenericAddress `json:"sleep_status_register"`
	HypervisorID *string         `json:"hypervisor_vendor_id"`
	flags        uint32
}

// Flags of the FADT that powerd goes by.
const (
	flagPowerButton = 1 << 4
	flagSleepButton = 1 << 5
	flagHWReduced   = 1 << 20
	flagLowPowerS0  = 1 << 21
)

// LowPowerS0 reports that firmware wants S0 idle (S0ix) rather than S3.
func (f FADT) LowPowerS0() bool { return f.flags&flagLowPowerS0 != 0 }

// A GenericAddress is a register in some address space (ACPI 6.5, 5.2.3.2).
type GenericAddress struct {
	Space     uint8  `json:"space"`
	BitWidth  uint8  `json:"bit_width"`
	BitOffset uint8  `json:"bit_offset"`
	Access    uint8  `json:"access"`
	Address   string `json:"address"`
}

// profiles are the Preferred_PM_Profile values.
var profiles = []string{"Unspecified", "Desktop", "Mobile", "Workstation", "Enterprise Server", "SOHO Server", "Appliance PC", "Performance Server", "Tablet"}

// fadtFlags names the bits of Flags (ACPI 6.5, table 5.10).
var fadtFlags = []string{"WBINVD", "WBINVD_FLUSH", "PROC_C1", "P_LVL2_UP", "PWR_BUTTON", "SLP_BUTTON", "FIX_RTC", "RTC_S4", "TMR_VAL_EXT",
	"DCK_CAP", "RESET_REG_SUP", "SEALED_CASE", "HEADLESS", "CPU_SW_SLP", "PCI_EXP_WAK", "USE_PLATFORM_CLOCK", "S4_RTC_STS_VALID",
	"REMOTE_POWER_ON_CAPABLE", "FORCE_APIC_CLUSTER_MODEL", "FORCE_APIC_PHYSICAL_DESTINATION_MODE", "HW_REDUCED_ACPI", "LOW_POWER_S0_IDLE_CAPABLE"}

// parseFADT reads a FADT, header included. Revision 1 ends after 116 bytes, and
// what firmware calls longer need not be: only the length counts.
func parseFADT(b []byte) (FADT, error) {
	if len(b) < 116 {
		return FADT{}, fmt.Errorf("offset %d: the FADT ends, revision 1 has 116 bytes", len(b))
	}
	u16 := func(at int) uint16 { return binary.LittleEndian.Uint16(b[at:]) }
	u32 := func(at int) string { return fmt.Sprintf("0x%x", binary.LittleEndian.Uint32(b[at:])) }
	f := FADT{
		Length: binary.LittleEndian.Uint32(b[4:]), Revision: b[8], Profile: b[45], SCI: u16(46), SMICmd: u32(48),
		Enable: b[52], Disable: b[53], S4BIOS: b[54], PStateCnt: b[55],
		PM1aEvt: u32(56), PM1bEvt: u32(60), PM1aCnt: u32(64), PM1bCnt: u32(68), PM2Cnt: u32(72), PMTimer: u32(76),
		CSTCnt: b[95], C2Latency: u16(96), C3Latency: u16(98), DutyOffset: b[104], DutyWidth: b[105], Century: b[108],
		flags: binary.LittleEndian.Uint32(b[112:]),
	}
	if f.Revision == 1 {
		f.Profile = 0 // reserved there, as is the boot architecture
	}
	f.BootArch = "0x0000"
	if f.Revision > 1 {
		f.BootArch = fmt.Sprintf("0x%04x", u16(109))
	}
	f.ProfileName = "reserved"
	if int(f.Profile) < len(profiles) {
		f.ProfileName = profiles[f.Profile]
	}
	f.Flags = fmt.Sprintf("0x%08x", f.flags)
	f.FlagsSet = []string{}
	for i, name := range fadtFlags {
		if f.flags&(1<<i) != 0 {
			f.FlagsSet = append(f.FlagsSet, name)
		}
	}
	reduced := f.flags&flagHWReduced != 0
	f.C2, f.C3 = f.C2Latency <= 100 && !reduced, f.C3Latency <= 1000 && !reduced
	f.PowerButton, f.SleepButton = "fixed hardware", "fixed hardware"
	if f.flags&flagPowerButton != 0 {
		f.PowerButton = "control method or none"
	}
	if f.flags&flagSleepButton != 0 {
		f.SleepButton = "control method or none"
	}
	if len(b) >= 129 {
		f.Reset, f.ResetValue = address(b[116:]), &b[128]
	}
	if len(b) >= 131 {
		s := fmt.Sprintf("0x%04x", u16(129))
		f.ARMBootArch = &s
	}
	if len(b) >= 132 && f.Revision >= 5 {
		f.Minor = &b[131]
	}
	if len(b) >= 268 {
		f.SleepControl, f.SleepStatus = address(b[244:]), address(b[256:])
	}
	if len(b) >= 276 && f.Revision >= 6 {
		if id := printable(b[268:276]); id != "" {
			f.HypervisorID = &id
		}
	}
	return f, nil
}

func address(b []byte) *GenericAddress {
	return &GenericAddress{b[0], b[1], b[2], b[3], fmt.Sprintf("0x%x", binary.LittleEndian.Uint64(b[4:]))}
}
