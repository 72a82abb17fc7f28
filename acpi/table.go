package acpi

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// headerSize is the common table header's (ACPI 6.5, 5.2.6).
const headerSize = 36

// A Table is one firmware table as found.
type Table struct {
	File      string `json:"file"`
	Signature string `json:"signature"`
	FileBytes int    `json:"file_bytes"`
	// The rest is nil for tables without the common header (RSDP, FACS) and for
	// files too short for one.
	Length      *uint32 `json:"header_length"`
	Revision    *uint8  `json:"revision"`
	ChecksumOK  *bool   `json:"checksum_ok"`
	OEMID       *string `json:"oem_id"`
	OEMTableID  *string `json:"oem_table_id"`
	OEMRevision *string `json:"oem_revision"`
	// Truncated tells that the header promises more bytes than there are.
	Truncated bool `json:"truncated"`
	data      []byte
}

// parseTable reads a table's header.
func parseTable(file string, data []byte) (Table, error) {
	t := Table{File: file, FileBytes: len(data), data: data}
	if strings.HasPrefix(string(data), "RSD PTR ") {
		t.Signature = "RSD PTR "
		return t, nil
	}
	if len(data) < 4 {
		return t, fmt.Errorf("%d bytes hold no signature", len(data))
	}
	t.Signature = printable(data[:4])
	if t.Signature == "FACS" { // it has no checksum (5.2.10)
		if len(data) >= 8 {
			n := binary.LittleEndian.Uint32(data[4:])
			t.Length, t.Truncated = &n, uint64(n) > uint64(len(data))
		}
		return t, nil
	}
	if len(data) < headerSize {
		t.Truncated = true
		return t, fmt.Errorf("%d bytes are less than a table header's %d", len(data), headerSize)
	}
	length, revision := binary.LittleEndian.Uint32(data[4:]), data[8]
	oem, table := printable(data[10:16]), printable(data[16:24])
	oemRevision := fmt.Sprintf("0x%08x", binary.LittleEndian.Uint32(data[24:]))
	t.Length, t.Revision, t.OEMID, t.OEMTableID, t.OEMRevision = &length, &revision, &oem, &table, &oemRevision
	if length < headerSize {
		return t, fmt.Errorf("offset 4: a length of %d is less than the header's %d", length, headerSize)
	}
	if uint64(length) > uint64(len(data)) {
		t.Truncated = true
		return t, nil
	}
	t.data = data[:length]
	var sum byte
	for _, b := range t.data {
		sum += b
	}
	ok := sum == 0
	t.ChecksumOK = &ok
	return t, nil
}

// printable cuts padding off a fixed-size name and replaces what is no text.
func printable(b []byte) string {
	s := strings.TrimRight(string(b), " \x00")
	return strings.ToValidUTF8(s, "?")
}
