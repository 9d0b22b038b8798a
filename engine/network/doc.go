// Package network gives containers their networks.
package network
