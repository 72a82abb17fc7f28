// Package daemon is the one place that acts. Its tick observes the machine, learns
// from what it saw, decides, applies the difference through the journal, accounts
// the energy and publishes a Snapshot; everything else is a view of that.
package daemon
