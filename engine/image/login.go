package image

import (
	"context"
	"strings"

	"github.com/moby/moby/api/types/registry"

	cimage "lighter/containerd/image"
)

// Login checks credentials with the registry at auth.ServerAddress, Docker Hub
// when that is empty.
//
// Errors: Unauthenticated when the registry refuses them; InvalidArgument for an
// address that is none.
func (s *Service) Login(ctx context.Context, auth registry.AuthConfig) (registry.AuthResponse, error) {
	host := loginHost(auth.ServerAddress)
	if host == "" || strings.ContainsAny(host, " \t\r\n@?#\\") {
		return registry.AuthResponse{}, invalid("invalid registry address %q", auth.ServerAddress)
	}
	o := s.hostOptions(host)
	o.Mirrors = nil
	switch {
	case auth.RegistryToken != "":
		o.Token = auth.RegistryToken
	case auth.IdentityToken != "":
		o.Secret = auth.IdentityToken
	default:
		o.User, o.Secret = auth.Username, auth.Password
	}
	token, err := cimage.Login(ctx, o)
	if err != nil {
		return registry.AuthResponse{}, err
	}
	return registry.AuthResponse{Status: "Login Succeeded", IdentityToken: token}, nil
}

// loginHost is the registry that a login's address means: Docker Hub has
// several.
func loginHost(address string) string {
	address = strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	address, _, _ = strings.Cut(address, "/")
	switch address {
	case "", "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	}
	return address
}
