package image

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	maxCached     = 16 << 20  // bytes of all cached blobs
	maxCachedBlob = 256 << 10 // bytes of one
)

// blobCache holds manifests and configs, which do not change, by digest.
type blobCache struct {
	mu    sync.Mutex // guards the fields below
	blobs map[digest.Digest][]byte
	size  int
}

func newBlobCache() *blobCache { return &blobCache{blobs: map[digest.Digest][]byte{}} }

func (c *blobCache) get(d digest.Digest) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.blobs[d]
	return b, ok
}

// put remembers b; when there is no room, others are forgotten in no order.
func (c *blobCache) put(d digest.Digest, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.blobs[d]; ok || len(b) > maxCachedBlob {
		return
	}
	for old, ob := range c.blobs {
		if c.size+len(b) <= maxCached {
			break
		}
		delete(c.blobs, old)
		c.size -= len(ob)
	}
	c.blobs[d] = b
	c.size += len(b)
}

func (c *blobCache) drop(d digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.size -= len(c.blobs[d])
	delete(c.blobs, d)
}

// cached is the content store with the cache in front of small documents. That
// a blob still exists is asked of the store each time.
type cached struct {
	content.Store
	cache *blobCache
}

func (s *Service) cachedContent() cached { return cached{s.svc.Content, s.cache} }

// ReaderAt implements content.Provider.
func (c cached) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if b, ok := c.cache.get(desc.Digest); ok {
		if _, err := c.Info(ctx, desc.Digest); err != nil {
			c.cache.drop(desc.Digest)
			return nil, err
		}
		return memoryBlob(b), nil
	}
	ra, err := c.Store.ReaderAt(ctx, desc)
	if err != nil || ra.Size() > maxCachedBlob ||
		!images.IsManifestType(desc.MediaType) && !images.IsIndexType(desc.MediaType) && !images.IsConfigType(desc.MediaType) {
		return ra, err
	}
	defer ra.Close()
	b := make([]byte, ra.Size())
	if _, err := ra.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if desc.Digest.Algorithm().FromBytes(b) == desc.Digest {
		c.cache.put(desc.Digest, b)
	}
	return memoryBlob(b), nil
}

// memoryBlob is a blob in memory.
type memoryBlob []byte

func (b memoryBlob) Close() error { return nil }
func (b memoryBlob) Size() int64  { return int64(len(b)) }

func (b memoryBlob) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// keyLock serializes work on one key. The zero value is ready to use.
type keyLock struct {
	mu   sync.Mutex // guards held
	held map[string]chan struct{}
}

// lock waits for key until ctx ends. waited says that someone else had it.
func (l *keyLock) lock(ctx context.Context, key string) (unlock func(), waited bool, err error) {
	for {
		l.mu.Lock()
		if l.held == nil {
			l.held = map[string]chan struct{}{}
		}
		done, taken := l.held[key]
		if !taken {
			done = make(chan struct{})
			l.held[key] = done
		}
		l.mu.Unlock()
		if !taken {
			return func() {
				l.mu.Lock()
				delete(l.held, key)
				l.mu.Unlock()
				close(done)
			}, waited, nil
		}
		waited = true
		select {
		case <-done:
		case <-ctx.Done():
			return nil, true, context.Cause(ctx)
		}
	}
}
