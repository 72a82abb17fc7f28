package seccomp

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
)

var update = flag.Bool("update", false, "write numbers.txt anew")

// TestNumbers holds numbers.txt against the library that it was made from.
func TestNumbers(t *testing.T) {
	columns := []*arch.Info{arch.X86_64, arch.I386, arch.X32, arch.AARCH64, arch.ARM}
	names := map[string]bool{}
	numbers := make([]map[string]int, len(columns))
	for i, c := range columns {
		numbers[i] = map[string]int{}
		for n, name := range c.SyscallNumbers {
			names[name] = true
			// x32 has calls twice, of which the higher number is its own.
			numbers[i][name] = max(numbers[i][name], n)
		}
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(names)) {
		b.WriteString(name)
		for _, numbers := range numbers {
			if n, ok := numbers[name]; ok {
				fmt.Fprintf(&b, " %d", n)
			} else {
				b.WriteString(" -")
			}
		}
		b.WriteString("\n")
	}
	if *update {
		if err := os.WriteFile("numbers.txt", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if b.String() != numbersText {
		t.Error("numbers.txt is not what the library has: go test -run TestNumbers -update")
	}
	for a, want := range map[auditArch]arch.AuditArch{auditX86_64: arch.X86_64.ID, auditI386: arch.I386.ID, auditAArch64: arch.AARCH64.ID, auditARM: arch.ARM.ID} {
		if uint32(a) != uint32(want) {
			t.Errorf("architecture %x is %x", uint32(a), uint32(want))
		}
	}
	if arch.X32.SeccompMask != x32Bit {
		t.Errorf("x32's bit is %x", arch.X32.SeccompMask)
	}
}
