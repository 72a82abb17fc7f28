// Package energy knows where joules are read and to whom they are charged: the
// machine's meters, a model that learns from them, and an exact ledger.
package energy
