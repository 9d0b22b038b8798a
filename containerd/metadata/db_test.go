package metadata

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	localcontent "lighter/containerd/content"
)

// TestSchemaComment compares the tree of buckets in schema.go with the code.
func TestSchemaComment(t *testing.T) {
	src, err := os.ReadFile("schema.go")
	if err != nil {
		t.Fatal(err)
	}
	comment := strings.Join(strings.Fields(string(src)), " ")
	for _, l := range buckets() {
		line := strings.Join([]string{"//", string(l.name), l.key, l.value}, " ")
		if !strings.Contains(comment, line) {
			t.Errorf("schema.go's comment lacks %q", line)
		}
	}
	w := newWorld(t, never)
	var have []string
	err = w.bolt.View(func(b *bolt.Tx) error {
		return b.ForEach(func(name []byte, _ *bolt.Bucket) error { have = append(have, string(name)); return nil })
	})
	if err != nil || len(have) != len(buckets()) {
		t.Errorf("buckets = %v, %v, want %d", have, err, len(buckets()))
	}
}

func TestOpenRefusesWhatItCannotRead(t *testing.T) {
	for name, tt := range map[string]struct {
		damage func(path string) error
		class  func(error) bool
	}{
		"newer version": {func(path string) error {
			b, err := bolt.Open(path, 0o600, nil)
			if err != nil {
				return err
			}
			return errors.Join(b.Update(func(b *bolt.Tx) error {
				return b.Bucket([]byte(bktMeta)).Put(keyVersion, []byte(strconv.Itoa(schemaVersion+1)))
			}), b.Close())
		}, errdefs.IsFailedPrecondition},
		"not a database": {func(path string) error {
			return os.WriteFile(path, []byte(strings.Repeat("no database ", 4096)), 0o600)
		}, errdefs.IsDataLoss},
		"another database": {func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			b, err := bolt.Open(path, 0o600, nil)
			if err != nil {
				return err
			}
			return b.Close()
		}, errdefs.IsDataLoss},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, never)
			if err := w.DB.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(w.dir, "meta.db")
			if err := tt.damage(path); err != nil {
				t.Fatal(err)
			}
			db, err := Open(t.Context(), Config{Path: path, Blobs: w.blobs})
			if !tt.class(err) {
				t.Errorf("Open = %v", err)
			}
			if err == nil {
				db.Close()
			}
		})
	}
}

// TestOpenAfterCrashInCreation leaves the half made file of a first start.
func TestOpenAfterCrashInCreation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "meta.db")
	if err := os.WriteFile(path+".new", make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	blobs, err := localcontent.Open(filepath.Join(dir, "content"), nil)
	if err != nil {
		t.Fatal(err)
	}
	db, err := Open(t.Context(), Config{Path: path, Blobs: blobs})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestUnknownFieldsSurvive(t *testing.T) {
	w := newWorld(t, never)
	ctx := inNS(t, "ns")
	key := join("ns", "i")
	err := w.update(ctx, func(t *tx) error {
		return t.put(bktImages, key, []byte(`{"mediaType":"m","digest":"sha256:`+strings.Repeat("a", 64)+`","size":1,"later":{"x":[1]}}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	i, err := w.Images().Get(ctx, "i")
	if err != nil {
		t.Fatal(err)
	}
	i.Labels = map[string]string{"k": "v"}
	if _, err := w.Images().Update(ctx, i, "labels"); err != nil {
		t.Fatal(err)
	}
	err = w.view(func(tx *tx) error {
		if v := string(tx.bucket(bktImages).Get(key)); !strings.Contains(v, `"later":{"x":[1]}`) || !strings.Contains(v, `"k":"v"`) {
			t.Errorf("record = %s, want the unknown field and the new label", v)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCommitterIsolatesFailures(t *testing.T) {
	w := newWorld(t, never)
	ctx := t.Context()
	boom := errors.New("boom")
	put := func(key string, then error) func(*tx) error {
		return func(t *tx) error {
			if err := t.put(bktMeta, []byte(key), []byte("1")); err != nil {
				return err
			}
			return then
		}
	}
	var group sync.WaitGroup
	var runs atomic.Int32
	check := func(want error, fn func(*tx) error) {
		group.Go(func() {
			err := w.update(ctx, func(t *tx) error { runs.Add(1); return fn(t) })
			if !errors.Is(err, want) {
				t.Errorf("update = %v, want %v", err, want)
			}
		})
	}
	for n := range 50 {
		check(nil, put("good"+strconv.Itoa(n), nil))
		check(boom, put("bad"+strconv.Itoa(n), boom))
		check(boom, func(*tx) error { return boom })
	}
	group.Go(func() {
		if err := w.update(ctx, func(*tx) error { panic("oops") }); err == nil {
			t.Error("a panic was no error")
		}
	})
	group.Wait()
	good := 0
	err := w.view(func(tx *tx) error {
		return tx.scan(bktMeta, nil, func(key string, _ []byte) error {
			if strings.HasPrefix(key, "bad") {
				t.Errorf("%s was written", key)
			}
			if strings.HasPrefix(key, "good") {
				good++
			}
			return nil
		})
	})
	if err != nil || good != 50 {
		t.Errorf("%d good keys, %v, want 50", good, err)
	}
}

func TestUpdateAfterCancelChangesNothing(t *testing.T) {
	w := newWorld(t, never)
	ctx, cancel := context.WithCancel(inNS(t, "ns"))
	cancel()
	if _, err := w.Containers().Create(ctx, container("c", "", nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("Create = %v, want Canceled", err)
	}
	if _, err := w.Containers().Get(inNS(t, "ns"), "c"); !errdefs.IsNotFound(err) {
		t.Errorf("Get = %v, want NotFound", err)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the lock's time-out")
	}
	w := newWorld(t, never)
	if _, err := Open(t.Context(), Config{Path: filepath.Join(w.dir, "meta.db"), Blobs: w.blobs}); !errdefs.IsUnavailable(err) {
		t.Errorf("second Open = %v, want Unavailable", err)
	}
}

func BenchmarkDB_Update(b *testing.B) {
	for _, writers := range []int{1, 8, 32} {
		b.Run(strconv.Itoa(writers), func(b *testing.B) {
			dir := b.TempDir()
			blobs, err := localcontent.Open(filepath.Join(dir, "content"), nil)
			if err != nil {
				b.Fatal(err)
			}
			db, err := Open(b.Context(), Config{Path: filepath.Join(dir, "meta.db"), Blobs: blobs, GCDelay: never})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			b.ReportAllocs()
			b.SetParallelism(writers)
			b.ResetTimer()
			var n atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					key := []byte("k" + strconv.FormatInt(n.Add(1)%1000, 10))
					if err := db.update(b.Context(), func(t *tx) error { return t.put(bktMeta, key, key) }); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
