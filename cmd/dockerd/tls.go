package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
)

// useTLS reports whether TCP listeners speak TLS: --tlsverify alone asks for it
// too.
func (c *config) useTLS() bool {
	return c.TLS != nil && *c.TLS || c.verifyClients()
}

func (c *config) verifyClients() bool { return c.TLSVerify != nil && *c.TLSVerify }

// tlsConfig is how TCP listeners speak TLS. With tlsverify clients need a
// certificate of the CA in tlscacert, of no other (CVE-2018-12608).
func (c *config) tlsConfig() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, fmt.Errorf("could not load X509 key pair (cert: %q, key: %q): %w", c.TLSCert, c.TLSKey, err)
		}
		return nil, fmt.Errorf("error reading X509 key pair - make sure the key is not encrypted (cert: %q, key: %q): %w", c.TLSCert, c.TLSKey, err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	if !c.verifyClients() {
		return cfg, nil
	}
	raw, err := os.ReadFile(c.TLSCACert)
	if err != nil {
		return nil, fmt.Errorf("could not read CA certificate %q: %w", c.TLSCACert, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("failed to append certificates from PEM file: %q", c.TLSCACert)
	}
	cfg.ClientCAs, cfg.ClientAuth = pool, tls.RequireAndVerifyClientCert
	return cfg, nil
}

func validJSON(raw []byte) bool {
	var object map[string]json.RawMessage
	return json.Unmarshal(raw, &object) == nil
}
