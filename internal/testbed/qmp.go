package testbed

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A qmp speaks QEMU's machine protocol: a line of JSON each way, one command at a
// time. See QEMU's docs/interop/qmp-spec.txt.
type qmp struct {
	mu   sync.Mutex
	conn net.Conn
	in   *bufio.Scanner
}

// A qmpMessage is a line from QEMU; exactly one field but for ID is there:
//
//	{"QMP": {"version": {...}, "capabilities": []}}
//	{"return": {}}
//	{"error": {"class": "GenericError", "desc": "..."}}
//	{"event": "SHUTDOWN", "data": {...}, "timestamp": {...}}
type qmpMessage struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
}

func parseQMP(line []byte) (qmpMessage, error) {
	var m qmpMessage
	if err := json.Unmarshal(line, &m); err != nil {
		return m, fmt.Errorf("cannot read QEMU's answer: %w", err)
	}
	if m.Greeting == nil && m.Return == nil && m.Error == nil && m.Event == "" {
		return m, fmt.Errorf("cannot read QEMU's answer %q: it is no greeting, return, error or event", clip(line))
	}
	return m, nil
}

func clip(b []byte) []byte { return b[:min(len(b), 80)] }

// newQMP negotiates with the QEMU at the other end of conn.
func newQMP(conn net.Conn) (*qmp, error) {
	q := &qmp{conn: conn, in: bufio.NewScanner(conn)}
	q.in.Buffer(nil, 1<<20)
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	m, err := q.next()
	if err != nil {
		return nil, fmt.Errorf("cannot greet QEMU: %w", err)
	}
	if m.Greeting == nil {
		return nil, fmt.Errorf("cannot greet QEMU: its first line is no greeting")
	}
	return q, q.command("qmp_capabilities", nil, nil)
}

func (q *qmp) next() (qmpMessage, error) {
	if !q.in.Scan() {
		if err := q.in.Err(); err != nil {
			return qmpMessage{}, err
		}
		return qmpMessage{}, io.EOF
	}
	return parseQMP(q.in.Bytes())
}

// command runs one command and decodes its return into out, unless that is nil.
func (q *qmp) command(name string, arguments, out any) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{name, arguments})
	if err != nil {
		return err
	}
	// A vCPU that is throttled while it holds QEMU's lock makes answers wait.
	q.conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := q.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("cannot send %s to QEMU: %w", name, err)
	}
	for {
		m, err := q.next()
		switch {
		case err != nil:
			return fmt.Errorf("cannot run %s in QEMU: %w", name, err)
		case m.Error != nil:
			return fmt.Errorf("cannot run %s in QEMU: %s", name, m.Error.Desc)
		case m.Return != nil && out != nil:
			return json.Unmarshal(m.Return, out)
		case m.Return != nil:
			return nil
		}
	}
}

// monitor runs a command of the human monitor, which alone can reach ports.
func (q *qmp) monitor(line string) (string, error) {
	var out string
	err := q.command("human-monitor-command", map[string]string{"command-line": line}, &out)
	return out, err
}

// readPort reads a byte from an I/O port.
func (q *qmp) readPort(port int) (byte, error) {
	out, err := q.monitor(fmt.Sprintf("i /1b 0x%x", port))
	if err != nil {
		return 0, err
	}
	return parsePort(out)
}

// parsePort reads the human monitor's answer to "i /1b 0x82":
//
//	portb[0x0082] = 0x00
func parsePort(s string) (byte, error) {
	_, value, ok := strings.Cut(strings.TrimSpace(s), "] = 0x")
	v, err := strconv.ParseUint(value, 16, 8)
	if !ok || err != nil {
		return 0, fmt.Errorf("cannot read port: QEMU's monitor said %q", clip([]byte(s)))
	}
	return byte(v), nil
}

// writePort16 writes a 16-bit value to a port and its neighbour.
func (q *qmp) writePort16(port int, value uint16) error {
	out, err := q.monitor(fmt.Sprintf("o /2h 0x%x 0x%x", port, value))
	if err == nil && strings.TrimSpace(out) != "" {
		err = fmt.Errorf("cannot write port: QEMU's monitor said %q", clip([]byte(out)))
	}
	return err
}

// threads returns the thread id of each vCPU's host thread.
func (q *qmp) threads() ([]int, error) {
	var cpus []struct {
		Index  int `json:"cpu-index"`
		Thread int `json:"thread-id"`
	}
	if err := q.command("query-cpus-fast", nil, &cpus); err != nil {
		return nil, err
	}
	out := make([]int, len(cpus))
	for _, c := range cpus {
		if c.Index < 0 || c.Index >= len(out) {
			return nil, fmt.Errorf("cannot list vCPUs: index %d of %d", c.Index, len(out))
		}
		out[c.Index] = c.Thread
	}
	return out, nil
}
