package testbed

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

const setupHint = "internal/testbed/setup.sh installs what the testbed needs"

// tool runs one of the programs the testbed needs and returns its output.
func tool(ctx context.Context, dir, name string, args ...string) (string, error) {
	const sbin = "/usr/sbin" // depmod's and mkfs.ext4's place, on root's PATH only
	file, err := exec.LookPath(name)
	if err != nil {
		if file, err = exec.LookPath(filepath.Join(sbin, name)); err != nil {
			return "", fmt.Errorf("cannot run %s: it is not installed; %s", name, setupHint)
		}
	}
	cmd := exec.CommandContext(ctx, file, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":"+sbin)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("cannot run %s %s: %w: %s", name, strings.Join(args, " "), err, tail(stderr.String()+stdout.String(), 2000))
	}
	return stdout.String(), nil
}

func tail(s string, n int) string {
	if len(s) > n {
		s = "..." + s[len(s)-n:]
	}
	return strings.TrimSpace(s)
}

// cacheDir is where downloads and images stay between runs: $POWERD_CACHE or the
// user's cache directory.
func cacheDir() (string, error) {
	dir := os.Getenv("POWERD_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("cannot find a cache directory: %w; set POWERD_CACHE", err)
		}
		dir = filepath.Join(user, "powerd")
	}
	dir = filepath.Join(dir, "testbed")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot make the cache directory: %w", err)
	}
	return dir, nil
}

// cached returns the folder key of the cache and lets build fill it if it is not
// there yet. Processes that want the same folder wait for each other; a build
// that fails or is killed leaves nothing that looks finished.
func cached(key string, build func(dir string) error) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	done := filepath.Join(cache, key)
	lock, err := os.OpenFile(done+".lock", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", fmt.Errorf("cannot lock the cache: %w", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("cannot lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(done); err == nil {
		return done, nil
	}
	part := done + ".part"
	if err := os.RemoveAll(part); err != nil {
		return "", fmt.Errorf("cannot clear %s: %w", part, err)
	}
	if err := os.Mkdir(part, 0o755); err != nil {
		return "", fmt.Errorf("cannot make %s: %w", part, err)
	}
	if err := build(part); err != nil {
		os.RemoveAll(part)
		return "", err
	}
	if err := os.Rename(part, done); err != nil {
		return "", fmt.Errorf("cannot finish %s: %w", done, err)
	}
	return done, nil
}
