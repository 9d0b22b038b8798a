// Package server is the Engine API's edge: HTTP routes, request decoding,
// the mapping of error classes to statuses, and hijacked streams. It translates
// and does nothing else; the nouns' packages hold the behaviour and this package
// declares what it needs of them (backend.go).
package server
