// Package configs reads what people write: the daemon's configuration with its
// policy of classes, and platform files with what a machine's operating points
// cost.
//
// Reading is in two steps. The raw structs mirror the YAML (pointers are for what
// may be left out); one function each resolves them into values with defaults
// applied. Unknown keys, wrong units and impossible values are errors that name
// file, line, column and key.
package configs
