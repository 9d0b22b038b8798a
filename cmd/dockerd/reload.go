package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"sync/atomic"

	"lighter/engine"
	"lighter/engine/authz"
)

// daemonState is what SIGHUP changes outside of the engine.
type daemonState struct {
	level           *slog.LevelVar
	shutdownSeconds atomic.Int64
	classicBuilder  atomic.Bool // clients are told to build without BuildKit
}

func (s *daemonState) apply(cfg *config) {
	level, _ := parseLevel(cfg.LogLevel) // checked
	s.level.Set(level)
	s.shutdownSeconds.Store(int64(cfg.ShutdownTimeout))
	buildKit, set := cfg.Features["buildkit"]
	s.classicBuilder.Store(set && !buildKit)
}

// reload reads the configuration again and takes over the keys that may change
// while the daemon works. A configuration with an error changes nothing.
func reload(ctx context.Context, old *config, state *daemonState, eng *engine.Engine, authorization *authz.Chain, address string, log *slog.Logger) *config {
	next, err := loadConfig(old.args)
	if err != nil {
		log.Error("cannot reload the configuration, which stays as it was", "err", err)
		return old
	}
	merged := *old
	from, to := reflect.ValueOf(next).Elem(), reflect.ValueOf(&merged).Elem()
	values := map[string]any{}
	for i := range from.NumField() {
		field := from.Type().Field(i)
		if field.Tag.Get("reload") == "" {
			continue
		}
		to.Field(i).Set(from.Field(i))
		values[field.Tag.Get("json")] = from.Field(i).Interface()
	}
	merged.LogLevel = next.LogLevel // debug changes it
	cfg, err := engineConfig(&merged, address)
	if err != nil {
		log.Error("cannot reload the configuration, which stays as it was", "err", err)
		return old
	}
	if err := authorization.Set(ctx, merged.Authorization); err != nil {
		log.Error("cannot reload the configuration, which stays as it was", "err", err)
		return old
	}
	state.apply(&merged)
	eng.Reload(cfg, engine.ReloadAttributes(values))
	shown, err := json.Marshal(values)
	if err != nil {
		log.Warn("show the configuration", "err", err)
	}
	log.Info("Reloaded configuration: " + string(shown))
	return &merged
}

// setProxies puts the configured proxies into the environment, from where the
// requests to registries, and programs that the daemon starts, take them.
func setProxies(p proxies, log *slog.Logger) error {
	for _, v := range []struct{ name, value string }{
		{"HTTP_PROXY", p.HTTP}, {"HTTPS_PROXY", p.HTTPS}, {"NO_PROXY", p.No},
	} {
		if v.value == "" {
			continue
		}
		lower := strings.ToLower(v.name)
		for _, name := range []string{v.name, lower} {
			if old, ok := os.LookupEnv(name); ok && old != v.value {
				log.Warn("overriding existing proxy variable with value from configuration",
					"name", name, "old-value", maskURL(old), "new-value", maskURL(v.value))
			}
			if err := os.Setenv(name, v.value); err != nil {
				return fmt.Errorf("set %s: %w", name, err)
			}
		}
	}
	return nil
}
