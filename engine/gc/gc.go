// Package gc removes images that no container uses, by a policy: how old they
// get, how much they may take together, and how much of the disk shall stay
// free. Without a policy it does nothing.
package gc

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// DefaultInterval is the time between two looks, DefaultMinAge how long an image
// is left alone after it came.
const (
	DefaultInterval = time.Hour
	DefaultMinAge   = 10 * time.Minute
)

// Policy says what goes. The zero value keeps everything.
type Policy struct {
	// KeepBytes bounds what the unused images take together; 0 for no bound.
	KeepBytes int64
	// MaxAge is how old an unused image gets; 0 for no bound.
	MaxAge time.Duration
	// FreeBytes and FreePercent are how much of the file system shall be free; 0
	// for no wish.
	FreeBytes   int64
	FreePercent float64
	// MinAge protects an image that came only now, perhaps for a container that
	// is about to be made; 0 means DefaultMinAge.
	MinAge time.Duration
	// Interval is the time between two looks; 0 means DefaultInterval.
	Interval time.Duration
}

// Enabled reports whether the policy asks for anything.
func (p Policy) Enabled() bool {
	return p.KeepBytes > 0 || p.MaxAge > 0 || p.FreeBytes > 0 || p.FreePercent > 0
}

// Image is an image that no container uses.
type Image struct {
	ID    string
	Since time.Time // when it came or was tagged last
	Size  int64     // bytes that its removal gives back
}

// Disk is the file system that the images are on, in bytes.
type Disk struct{ Total, Free int64 }

// Store is what the collector works on.
type Store interface {
	// Unused returns the images that no container uses.
	Unused(ctx context.Context) ([]Image, error)
	// Discard removes one, unless a container has come to use it.
	Discard(ctx context.Context, id string) error
	// Disk measures the file system.
	Disk() (Disk, error)
}

// choose returns the images that go, the oldest first.
func (p Policy) choose(unused []Image, disk Disk, now time.Time) []Image {
	minAge := p.MinAge
	if minAge == 0 {
		minAge = DefaultMinAge
	}
	unused = slices.Clone(unused)
	slices.SortStableFunc(unused, func(a, b Image) int { return a.Since.Compare(b.Since) })
	var taken int64
	for _, img := range unused {
		taken += img.Size
	}
	wanted := max(p.FreeBytes, int64(p.FreePercent/100*float64(disk.Total)))
	free := disk.Free
	var out []Image
	for _, img := range unused {
		age := now.Sub(img.Since)
		if age < minAge {
			break // those that follow are younger
		}
		old := p.MaxAge > 0 && age > p.MaxAge
		much := p.KeepBytes > 0 && taken > p.KeepBytes
		if !old && !much && free >= wanted {
			break
		}
		out = append(out, img)
		taken -= img.Size
		free += img.Size
	}
	return out
}

// Collect applies the policy once and returns how many images it removed.
func (p Policy) Collect(ctx context.Context, store Store, log *slog.Logger) (int, error) {
	unused, err := store.Unused(ctx)
	if err != nil {
		return 0, err
	}
	disk, err := store.Disk()
	if err != nil {
		return 0, err
	}
	removed := 0
	for _, img := range p.choose(unused, disk, time.Now()) {
		if err := store.Discard(ctx, img.ID); err != nil {
			if ctx.Err() != nil {
				return removed, context.Cause(ctx)
			}
			log.Info("cannot remove an unused image", "image", img.ID, "err", err)
			continue
		}
		log.Info("removed an unused image", "image", img.ID, "bytes", img.Size)
		removed++
	}
	return removed, nil
}

// Run applies the policy now and at each interval until ctx ends. It returns at
// once when the policy asks for nothing.
func (p Policy) Run(ctx context.Context, store Store, log *slog.Logger) {
	if !p.Enabled() {
		return
	}
	interval := p.Interval
	if interval == 0 {
		interval = DefaultInterval
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if _, err := p.Collect(ctx, store, log); err != nil && ctx.Err() == nil {
			log.Warn("cannot clean up", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
