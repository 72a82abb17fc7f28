package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Listen makes the daemon's socket. One that a dead daemon left is replaced; one
// that answers is an error.
func Listen(name string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the socket's folder: %v", err)
	}
	if c, err := net.DialTimeout("unix", name, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("cannot listen on %s: another powerd answers there", name)
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot listen on %s: %v", name, err)
	}
	l, err := net.Listen("unix", name)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %v", name, err)
	}
	return l, nil
}

// Serve answers, until the context ends, GET /v1/snapshot with the latest Snapshot, and
// POST /v1/place when the cgroups that are there are placed.
func (d *Daemon) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/snapshot", func(w http.ResponseWriter, _ *http.Request) {
		s := d.Snapshot()
		if s == nil {
			http.Error(w, "the first tick is not over", http.StatusServiceUnavailable)
			return
		}
		data, err := json.Marshal(s)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(data) //nolint:errcheck // the client went away
	})
	mux.HandleFunc("POST /v1/place", func(w http.ResponseWriter, r *http.Request) {
		if err := d.Place(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ErrNotRunning is wrapped by Fetch when no daemon answers.
var ErrNotRunning = errors.New("no daemon answers")

// Fetch asks the daemon at a socket for its snapshot.
func Fetch(ctx context.Context, socket string) (*Snapshot, error) {
	data, err := ask(ctx, socket, http.MethodGet, "/v1/snapshot", http.StatusOK)
	if err != nil {
		return nil, err
	}
	var s Snapshot
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("cannot understand the daemon at %s: %v; is it of another version?", socket, err)
	}
	return &s, nil
}

// Place asks the daemon at a socket to place a cgroup that has just come, and returns
// when it has.
func Place(ctx context.Context, socket string) error {
	_, err := ask(ctx, socket, http.MethodPost, "/v1/place", http.StatusNoContent)
	return err
}

func ask(ctx context.Context, socket, method, path string, want int) ([]byte, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}}}
	req, err := http.NewRequestWithContext(ctx, method, "http://powerd"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("cannot ask %s: %w", socket, ErrNotRunning)
		}
		return nil, fmt.Errorf("cannot ask %s: %w", socket, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s: %v", socket, err)
	}
	if resp.StatusCode != want {
		return nil, fmt.Errorf("cannot ask %s: %s", socket, string(data))
	}
	return data, nil
}
