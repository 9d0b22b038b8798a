package gc

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"
)

func TestChoose(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	images := []Image{
		{"new", now.Add(-time.Minute), 10},
		{"day", now.Add(-24 * time.Hour), 30},
		{"week", now.Add(-7 * 24 * time.Hour), 20},
		{"hour", now.Add(-time.Hour), 40},
	}
	for name, tc := range map[string]struct {
		policy Policy
		disk   Disk
		want   []string
	}{
		"nothing asked":          {Policy{}, Disk{100, 0}, nil},
		"by age":                 {Policy{MaxAge: 2 * time.Hour}, Disk{100, 0}, []string{"week", "day"}},
		"by size":                {Policy{KeepBytes: 80}, Disk{}, []string{"week"}},
		"all but the new":        {Policy{KeepBytes: 1}, Disk{}, []string{"week", "day", "hour"}},
		"a younger minimum":      {Policy{KeepBytes: 1, MinAge: time.Second}, Disk{}, []string{"week", "day", "hour", "new"}},
		"free enough":            {Policy{FreePercent: 10}, Disk{1000, 100}, nil},
		"not enough, by percent": {Policy{FreePercent: 10}, Disk{1000, 70}, []string{"week", "day"}},
		"not enough, by bytes":   {Policy{FreeBytes: 75}, Disk{1000, 70}, []string{"week"}},
		"hopeless":               {Policy{FreeBytes: 1000}, Disk{1000, 70}, []string{"week", "day", "hour"}},
		"age and size are or":    {Policy{MaxAge: 48 * time.Hour, KeepBytes: 50}, Disk{}, []string{"week", "day"}},
		"within bounds":          {Policy{MaxAge: 1000 * time.Hour, KeepBytes: 100}, Disk{}, nil},
	} {
		var got []string
		for _, img := range tc.policy.choose(images, tc.disk, now) {
			got = append(got, img.ID)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q go, want %q", name, got, tc.want)
		}
	}
}

type fakeStore struct {
	images    []Image
	discarded chan string
}

func (f *fakeStore) Unused(context.Context) ([]Image, error) { return f.images, nil }
func (f *fakeStore) Disk() (Disk, error)                     { return Disk{Total: 100, Free: 50}, nil }
func (f *fakeStore) Discard(_ context.Context, id string) error {
	f.discarded <- id
	if id == "used" {
		return errors.New("a container uses it")
	}
	return nil
}

// An image that cannot go does not keep the others.
func TestRun(t *testing.T) {
	store := &fakeStore{images: []Image{{"used", time.Unix(1, 0), 1}, {"old", time.Unix(2, 0), 1}}, discarded: make(chan string)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Policy{MaxAge: time.Hour}.Run(ctx, store, slog.New(slog.DiscardHandler))
	}()
	for _, want := range []string{"used", "old"} {
		if got := <-store.discarded; got != want {
			t.Errorf("discarded %q, want %q", got, want)
		}
	}
	cancel()
	<-done
	Policy{}.Run(t.Context(), store, nil) // returns
}
