// Package calibrate measures what a machine's cores cost: it holds the machine in one
// state after another (clocks, number of busy cores, idle states, kind of work), reads
// its meter, and fits
//
//	P = asleep + sum over cores of what each does + sum over clusters of what is kept up
//
// docs/calibrate.md has the model and its limits. What is pure (plan, rows, fit) is apart
// from what acts (Run); the machine is files, a Load and a Clock, so that a simulated
// machine is calibrated by the same code as a real one.
package calibrate
