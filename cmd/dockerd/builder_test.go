package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBuilderConfig(t *testing.T) {
	c, err := load(t, `{"builder": {"gc": {"defaultKeepStorage": "1GB", "policy": [
		{"keepStorage": "2GB", "filter": ["unused-for=2200h", "type=source.local"], "keepDuration": "48h"},
		{"all": true, "filter": {"type": {"regular": true}}}]},
		"entitlements": {"network-host": false, "security-insecure": true}, "history": {"maxAge": "24h", "maxEntries": 7}}}`)
	if err != nil {
		t.Fatal(err)
	}
	link := buildConfig(c, "/c.sock").Link
	if want := []string{"security.insecure"}; !slices.Equal(link.Entitlements, want) {
		t.Errorf("entitlements = %q, want %q", link.Entitlements, want)
	}
	if link.GC.ReservedBytes != 1<<30 || len(link.GC.Policy) != 2 || link.History.MaxAge != 24*time.Hour || link.History.MaxEntries != 7 {
		t.Fatalf("GC = %+v, history = %+v", link.GC, link.History)
	}
	rule := link.GC.Policy[0]
	if rule.ReservedBytes != 2<<30 || rule.KeepDuration != 48*time.Hour || !slices.Equal(rule.Filter, []string{"unused-for==2200h", "type==source.local"}) {
		t.Errorf("first rule = %+v", rule)
	}
	if rule := link.GC.Policy[1]; !rule.All || !slices.Equal(rule.Filter, []string{"type==regular"}) {
		t.Errorf("second rule = %+v", rule)
	}
	c, err = load(t, ``)
	if err != nil {
		t.Fatal(err)
	}
	if got := buildConfig(c, "/c.sock").Link.Entitlements; !slices.Equal(got, []string{"network.host"}) {
		t.Errorf("default entitlements = %q", got)
	}
}

func TestBuilderConfigRefuses(t *testing.T) {
	for file, want := range map[string]string{
		`{"builder": {"gc": {"policy": [{"keepDuration": "long"}]}}}`: "invalid duration",
		`{"builder": {"gc": {"policy": [{"filter": ["type"]}]}}}`:     "name=value is wanted",
		`{"builder": {"history": {"maxEntries": -1}}}`:                "must not be negative",
	} {
		if _, err := load(t, file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error = %v, want %q in it", file, err, want)
		}
	}
}
