// Package container is the container: its record, its state machine and
// everything that happens to it.
package container
