package testbed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/powerd/powerd/internal/testbed/wire"
)

// An agentConn sends requests to the guest's agent and hands each answer to whom
// it belongs.
type agentConn struct {
	conn net.Conn
	send sync.Mutex

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan wire.Response
	err     error // why no more answers come
}

// newAgentConn waits for the agent's hello.
func newAgentConn(ctx context.Context, conn net.Conn) (*agentConn, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	var hello wire.Response
	err := wire.Receive(conn, &hello)
	if !stop() {
		return nil, ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	if hello.Op != wire.Hello {
		conn.Close()
		return nil, fmt.Errorf("its first word is %q", hello.Op)
	}
	c := &agentConn{conn: conn, waiting: map[uint64]chan wire.Response{}}
	go c.receive()
	return c, nil
}

func (c *agentConn) receive() {
	for {
		var r wire.Response
		err := wire.Receive(c.conn, &r)
		c.mu.Lock()
		if err != nil {
			c.err = fmt.Errorf("the guest is gone: %w", err)
			for id, to := range c.waiting {
				close(to)
				delete(c.waiting, id)
			}
			c.mu.Unlock()
			return
		}
		if to := c.waiting[r.ID]; to != nil {
			to <- r
			delete(c.waiting, r.ID)
		}
		c.mu.Unlock()
	}
}

// call sends a request and waits for its answer. What the guest could not do is an
// error; a kernel's refusal is its syscall.Errno.
func (c *agentConn) call(ctx context.Context, r wire.Request) (wire.Response, error) {
	to := make(chan wire.Response, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return wire.Response{}, c.err
	}
	c.last++
	r.ID = c.last
	c.waiting[r.ID] = to
	c.mu.Unlock()
	if err := c.write(r); err != nil {
		return wire.Response{}, fmt.Errorf("cannot send to the guest: %w", err)
	}
	select {
	case out, ok := <-to:
		switch {
		case !ok:
			c.mu.Lock()
			defer c.mu.Unlock()
			return wire.Response{}, c.err
		case out.Errno != 0:
			return out, out.Errno
		case out.Err != "":
			return out, errors.New(out.Err)
		}
		return out, nil
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.waiting, r.ID)
		c.mu.Unlock()
		// Nobody waits for the answer to this; 0 is no call's ID.
		c.write(wire.Request{Op: wire.Cancel, Target: r.ID})
		return wire.Response{}, ctx.Err()
	}
}

func (c *agentConn) write(r wire.Request) error {
	c.send.Lock()
	defer c.send.Unlock()
	return wire.Send(c.conn, r)
}
