package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"lighter/engine/plugin"
)

// volumeDriver is a volume plugin.
type volumeDriver struct {
	name string
	p    *plugin.Plugin
}

// remoteError is the part of every answer that tells of a failure.
type remoteError struct{ Err string }

// driver finds the plugin called name.
func (s *Store) driver(ctx context.Context, name string) (*volumeDriver, error) {
	return s.driverWithin(ctx, name, plugin.DefaultTimeout)
}

// driverWithin is driver with a bound on each call.
func (s *Store) driverWithin(ctx context.Context, name string, timeout time.Duration) (*volumeDriver, error) {
	fail := func(err error) error {
		text := fmt.Sprintf("error looking up volume plugin %s: %s", name, err)
		if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
			return errdefs.ErrNotFound.WithMessage(text)
		}
		return errdefs.ErrUnavailable.WithMessage(text)
	}
	p, err := plugin.Find(s.plugins, name, timeout)
	if err != nil {
		return nil, fail(err)
	}
	if err := p.Activate(ctx, "VolumeDriver"); err != nil {
		return nil, fail(err)
	}
	return &volumeDriver{name, p}, nil
}

func (d *volumeDriver) call(ctx context.Context, method string, in, out any, failed *remoteError) error {
	if err := d.p.Call(ctx, "VolumeDriver."+method, in, out); err != nil {
		return err
	}
	if failed.Err != "" {
		return errors.New("VolumeDriver." + method + ": " + failed.Err)
	}
	return nil
}

func (d *volumeDriver) create(ctx context.Context, name string, opts map[string]string) error {
	var out remoteError
	return d.call(ctx, "Create", map[string]any{"Name": name, "Opts": opts}, &out, &out)
}

func (d *volumeDriver) remove(ctx context.Context, name string) error {
	var out remoteError
	return d.call(ctx, "Remove", map[string]any{"Name": name}, &out, &out)
}

func (d *volumeDriver) mount(ctx context.Context, name, user string) (string, error) {
	var out struct {
		remoteError
		Mountpoint string
	}
	if err := d.call(ctx, "Mount", map[string]any{"Name": name, "ID": user}, &out, &out.remoteError); err != nil {
		return "", err
	}
	if out.Mountpoint == "" {
		return "", fmt.Errorf("VolumeDriver.Mount: plugin %s answers without a mount point", d.name)
	}
	return out.Mountpoint, nil
}

func (d *volumeDriver) unmount(ctx context.Context, name, user string) error {
	var out remoteError
	return d.call(ctx, "Unmount", map[string]any{"Name": name, "ID": user}, &out, &out)
}

// path returns where the volume is or will be mounted, "" when the plugin does
// not know it before.
func (d *volumeDriver) path(ctx context.Context, name string) (string, error) {
	var out struct {
		remoteError
		Mountpoint string
	}
	err := d.call(ctx, "Path", map[string]any{"Name": name}, &out, &out.remoteError)
	return out.Mountpoint, err
}
