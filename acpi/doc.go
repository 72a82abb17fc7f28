// Package acpi reads what firmware says of power in its binary tables: the FADT,
// static _PSS, _CST and _Sx packages of DSDT and SSDTs, CPPC values, and which
// global and sleep states the node offers.
//
// AML is read only as far as static packages need; nothing is executed. Offsets
// in errors count from the beginning of the table.
//
// See the Advanced Configuration and Power Interface Specification 6.5.
package acpi
