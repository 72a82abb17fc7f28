package seccomp

import (
	"encoding/json"
	"maps"
	"net"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
)

// SendListener gives an agent at a unix socket a container's listener, with the state
// of the container.
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config-linux.md#the-container-process-state.
func (f *Filter) SendListener(listener, pid int, state specs.State) error {
	data, err := json.Marshal(specs.ContainerProcessState{Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid, Metadata: f.Metadata, State: state})
	if err != nil {
		return err
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: f.Listener, Net: "unix"})
	if err == nil {
		defer conn.Close()
		_, _, err = conn.WriteMsgUnix(data, unix.UnixRights(listener), nil)
	}
	if err != nil {
		return field("listenerPath", "cannot give the agent at %s the listener: %v", f.Listener, err)
	}
	return nil
}

// Features are what Compile takes.
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/features-linux.md#seccomp.
func Features() *features.Seccomp {
	yes := true
	s := &features.Seccomp{Enabled: &yes}
	for _, a := range slices.Sorted(maps.Keys(actions)) {
		s.Actions = append(s.Actions, string(a))
	}
	for _, o := range slices.Sorted(maps.Keys(comparisons)) {
		s.Operators = append(s.Operators, string(o))
	}
	for _, a := range slices.Sorted(maps.Keys(tables())) {
		s.Archs = append(s.Archs, string(a))
	}
	for _, f := range slices.Sorted(maps.Keys(flags)) {
		s.KnownFlags = append(s.KnownFlags, string(f))
	}
	s.SupportedFlags = s.KnownFlags
	return s
}
