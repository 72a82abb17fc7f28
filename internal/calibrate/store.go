package calibrate

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// A Store keeps finished points in a file of JSON lines, each fsynced, so that a
// calibration that was interrupted goes on where it was. Its first line says of which
// machine the points are. A nil Store keeps nothing.
type Store struct {
	file  *os.File
	found map[string]Observation
}

type storeHeader struct {
	Version int    `json:"version"`
	Machine string `json:"machine"`
}

const storeVersion = 1

// OpenStore opens, or makes, the store of a machine. Points of another machine, or of
// another powerd's form, are dropped; so is a last line that a crash cut short.
func OpenStore(name string, m *Machine) (*Store, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the points measured so far: %w", err)
	}
	s := &Store{file: f, found: map[string]Observation{}}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot read %s: %v", name, err), f.Close())
	}
	head := storeHeader{storeVersion, m.ID()}
	keep := 0 // bytes of whole and understood lines
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<20)
	for n := 0; sc.Scan() && keep+len(sc.Bytes()) < len(data); n++ { // each line has its feed
		if n == 0 {
			var h storeHeader
			if json.Unmarshal(sc.Bytes(), &h) != nil || h != head {
				break
			}
		} else {
			var o Observation
			if json.Unmarshal(sc.Bytes(), &o) != nil || o.Point == "" {
				break
			}
			s.found[o.Point] = o
		}
		keep += len(sc.Bytes()) + 1
	}
	err = f.Truncate(int64(keep))
	if err == nil {
		_, err = f.Seek(int64(keep), io.SeekStart)
	}
	if err == nil && keep == 0 {
		err = s.line(head)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot write %s: %v", name, err), f.Close())
	}
	return s, nil
}

func (s *Store) line(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if _, err := s.file.Write(append(data, '\n')); err != nil {
		return err
	}
	return s.file.Sync()
}

// Len is how many points are kept.
func (s *Store) Len() int {
	if s == nil {
		return 0
	}
	return len(s.found)
}

// Find returns the observation of a point by its name.
func (s *Store) Find(point string) (Observation, bool) {
	if s == nil {
		return Observation{}, false
	}
	o, ok := s.found[point]
	return o, ok
}

// Add keeps an observation.
func (s *Store) Add(o Observation) error {
	if s == nil {
		return nil
	}
	if err := s.line(o); err != nil {
		return fmt.Errorf("cannot keep a point: %v", err)
	}
	s.found[o.Point] = o
	return nil
}

// Close lets go of the file; the points stay in it.
func (s *Store) Close() error {
	if s == nil {
		return nil
	}
	return s.file.Close()
}
