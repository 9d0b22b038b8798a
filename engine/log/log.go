// Package log reads the json-file log of a container: the last lines, a span of
// time, or all that follows, across rotation. The shim writes it, see
// internal/shimio.
package log
