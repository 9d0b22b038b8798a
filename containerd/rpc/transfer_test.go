package rpc

import (
	"slices"
	"testing"

	transferapi "github.com/containerd/containerd/api/types/transfer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/containerd/image"
)

func TestImportNames(t *testing.T) {
	d := digest.FromString("manifest")
	prefix := func(name string, overwrite, addDigest, skip bool) []*transferapi.ImageReference {
		return []*transferapi.ImageReference{{Name: name, IsPrefix: true, AllowOverwrite: overwrite, AddDigest: addDigest, SkipNamedDigest: skip}}
	}
	for name, tt := range map[string]struct {
		refs []*transferapi.ImageReference
		in   []string
		want []string
	}{
		"no reference":         {nil, []string{"reg.test/a:1"}, nil},
		"whole reference only": {[]*transferapi.ImageReference{{Name: "reg.test/a:1"}}, []string{"reg.test/a:1"}, nil},
		"in the prefix":        {prefix("reg.test/a", false, false, false), []string{"reg.test/a:1"}, []string{"reg.test/a:1"}},
		"outside of it":        {prefix("reg.test/a", false, false, false), []string{"reg.test/ab:1"}, nil},
		"overwrite":            {prefix("unused", true, false, false), []string{"reg.test/b:1"}, []string{"reg.test/b:1"}},
		"a tag":                {prefix("reg.test/a", false, false, false), []string{"best"}, []string{"reg.test/a:best"}},
		"digest too":           {prefix("reg.test/a", false, true, false), []string{"reg.test/a:1"}, []string{"reg.test/a:1", "reg.test/a@" + d.String()}},
		"digest not needed":    {prefix("reg.test/a", false, true, true), []string{"reg.test/a:1"}, []string{"reg.test/a:1"}},
		"digest needed":        {prefix("reg.test/a", false, true, true), nil, []string{"reg.test/a@" + d.String()}},
	} {
		if got := importNames(tt.refs, image.Loaded{Names: tt.in, Target: ocispec.Descriptor{Digest: d}}); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestStoreNames(t *testing.T) {
	d := digest.FromString("index")
	got := storeNames(&transferapi.ImageStore{Name: "n", ExtraReferences: []*transferapi.ImageReference{
		{Name: "whole"}, {Name: "prefix", IsPrefix: true}, {Name: "digested", IsPrefix: true, AddDigest: true},
	}}, d)
	if want := []string{"n", "whole", "digested@" + d.String()}; !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
}
