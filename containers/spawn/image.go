package spawn

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Where the parts of the program are loaded; the player knows dataBase.
const (
	textBase = 0x10000000
	dataBase = 0x20000000
)

// header stands at dataBase. The player knows its layout.
type header struct {
	calls, first, registers uint64
	report, forked          uint64 // descriptors
	message                 [2]uint64
	signals                 uint64 // the empty set
}

const headerSize = int(unsafe.Sizeof(header{}))

// playerEnd marks the end of the player's text.
var playerEnd = []byte("powerd..")

// playerText is the player's machine code.
func playerText() ([]byte, error) {
	text := unsafe.Slice((*byte)(playerAddress()), 4096)
	n := bytes.Index(text, playerEnd)
	if n < 0 {
		return nil, fmt.Errorf("cannot find the end of the player's text")
	}
	return text[:n], nil
}

// image is the script as a static executable: ELF header, text, and one segment of
// header, data, registers and calls.
func (s *Script) image(report, forked uintptr) ([]byte, error) {
	text, err := playerText()
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	registers := dataBase + headerSize + len(s.data)
	h := header{calls: uint64(len(s.calls)), first: uint64(registers + 8*s.registers), registers: uint64(registers), report: uint64(report), forked: uint64(forked)}
	dataSize := int(h.first) - dataBase + len(s.calls)*int(unsafe.Sizeof(call{}))

	const page, elfSize, phSize = 4096, 64, 56
	textAt := elfSize + 3*phSize
	dataAt := (textAt + len(text) + page - 1) &^ (page - 1)
	b := make([]byte, 0, dataAt+dataSize)
	// Elf64_Ehdr
	b = append(b, 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = le.AppendUint16(b, 2) // ET_EXEC
	b = le.AppendUint16(b, elfMachine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, uint64(textBase+textAt)) // entry
	b = le.AppendUint64(b, elfSize)                 // program headers
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{elfSize, phSize, 3, 64, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	segment := func(kind, flags uint32, at, base, size int) {
		b = le.AppendUint32(b, kind)
		b = le.AppendUint32(b, flags)
		for _, v := range []int{at, base, base, size, size, page} {
			b = le.AppendUint64(b, uint64(v))
		}
	}
	const load, stack, x, w, r = 1, 0x6474e551, 1, 2, 4
	segment(load, r|x, 0, textBase, textAt+len(text))
	segment(load, r|w, dataAt, dataBase, dataSize)
	segment(stack, r|w, 0, 0, 0)
	b = append(b, text...)
	b = append(b, make([]byte, dataAt-len(b))...)
	b = append(b, unsafe.Slice((*byte)(unsafe.Pointer(&h)), headerSize)...)
	b = append(b, s.data...)
	b = append(b, make([]byte, 8*s.registers)...)
	b = append(b, unsafe.Slice((*byte)(unsafe.Pointer(&s.calls[0])), len(s.calls)*int(unsafe.Sizeof(call{})))...)
	return b, nil
}

// seal puts a program where it can be run and not be changed: a sealed memfd, open
// for reading alone (execveat refuses what somebody may write to).
func seal(program []byte) (*os.File, error) {
	const name = "powerd-init"
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 all are executable
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a memfd for a process' first program: %w (is vm.memfd_noexec 2?)", err)
	}
	defer unix.Close(fd)
	for b := program; len(b) > 0; {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			return nil, fmt.Errorf("cannot write a process' first program: %w", err)
		}
		b = b[max(n, 0):]
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE); err != nil {
		return nil, fmt.Errorf("cannot seal a process' first program: %w", err)
	}
	sealed, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open a process' first program: %w", err)
	}
	return os.NewFile(uintptr(sealed), name), nil
}
