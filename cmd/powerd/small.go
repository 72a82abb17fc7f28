//go:build powerd_oci

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// whole is not in the small binary, which is powerd-oci alone: what the whole one holds
// beside, of images and protocols, takes Go's runtime longer to start than a container.
var whole func(args []string, in io.Reader, out, errs io.Writer) int

// placed lets powerd, which lies beside this binary, ask the daemon.
func placed(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find powerd: %v", err)
	}
	out, err := exec.CommandContext(ctx, filepath.Join(filepath.Dir(self), "powerd"), "place").CombinedOutput()
	switch {
	case err == nil || errors.Is(err, os.ErrNotExist): // who has no powerd has no daemon
		return nil
	case errors.As(err, new(*exec.ExitError)):
		return fmt.Errorf("cannot let powerd place the container: %s", strings.TrimSpace(string(out)))
	}
	return fmt.Errorf("cannot let powerd place the container: %v", err)
}
