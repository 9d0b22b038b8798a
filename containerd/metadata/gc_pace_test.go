package metadata

import (
	"testing"
	"time"
)

// A collection that is asked for waits for others and for the rest after the last
// one, but not while the disk is full.
func TestCollectionBegins(t *testing.T) {
	now := time.Now()
	c := &collector{delay: time.Second}
	for _, tc := range []struct {
		name string
		full bool
		rest time.Duration // left of it
		want time.Duration
	}{
		{"rested", false, -time.Minute, time.Second},
		{"resting", false, time.Hour, time.Hour},
		{"nearly rested", false, time.Millisecond, time.Second},
		{"full and resting", true, time.Hour, 0},
		{"full and rested", true, -time.Minute, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c.full = func() bool { return tc.full }
			if got := c.begin(now, now.Add(tc.rest)).Sub(now); got != tc.want {
				t.Errorf("begins after %s, want %s", got, tc.want)
			}
		})
	}
}
