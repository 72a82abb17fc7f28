// Package oci runs containers after the OCI runtime specification: config.json in,
// a script of system calls (package spawn) out, and the state on disk that create,
// start, kill and delete go by.
//
// What the specification has and this package does not yet do is refused with the
// name of the field, never left out silently.
package oci
