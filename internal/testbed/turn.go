package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// A guest's time goes by the host's, so two processes' nodes side by side would
// spoil each other: they take turns. A process with a node may boot more.
var turn struct {
	sync.Mutex
	nodes int
	file  *os.File
}

// takeTurn waits until no other process of this user has a node.
func takeTurn(ctx context.Context) error {
	turn.Lock()
	defer turn.Unlock()
	if turn.nodes > 0 {
		turn.nodes++
		return nil
	}
	dir, err := cacheDir()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "turn.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("cannot wait for other testbeds: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			turn.file, turn.nodes = f, 1
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return fmt.Errorf("cannot wait for other testbeds: %w", err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return fmt.Errorf("cannot boot node: another process has had one all the time: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// endTurn lets the next process boot once the last node is closed.
func endTurn() {
	turn.Lock()
	defer turn.Unlock()
	if turn.nodes--; turn.nodes == 0 {
		turn.file.Close()
		turn.file = nil
	}
}
