// Package network connects containers: a bridge, an address each, translation to the
// outside, and published ports.
//
// All that is there follows from the leases, files below Dir named by address, each with
// the container it is for and the ports that it publishes. A lease is written before the
// kernel is changed and removed after, and the rules are made anew from all leases in
// one transaction, so what a crash leaves the next Attach or Detach puts right.
//
// The host's namespace is that of the calling thread. The rules are in a table of their
// own, "ip powerd" of nftables: other tables may still drop what these accept.
package network
