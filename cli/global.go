package cli

import (
	"log/slog"
	"os"
	"path/filepath"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"

	"lighter/cli/session"
)

// global are the flags that stand before the command.
type global struct{ *pflag.FlagSet }

func globalFlags(s *session.Session) global {
	dir := s.Dir()
	certs := os.Getenv("DOCKER_CERT_PATH")
	if certs == "" {
		certs = dir
	}
	fs := pflag.NewFlagSet("docker", pflag.ContinueOnError)
	fs.Usage = func() {}
	fs.StringVar(&s.ConfigDir, "config", s.ConfigDir, "Location of client config files")
	fs.StringVarP(&s.Context, "context", "c", s.Context, `Name of the context to use to connect to the daemon (overrides DOCKER_HOST env var and default context set with "docker context use")`)
	fs.BoolVarP(&s.Debug, "debug", "D", s.Debug, "Enable debug mode")
	fs.StringArrayVarP(&s.Hosts, "host", "H", s.Hosts, "Daemon socket to connect to")
	fs.StringVarP(&s.LogLevel, "log-level", "l", "info", `Set the logging level ("debug", "info", "warn", "error", "fatal")`)
	fs.BoolVar(&s.TLS.Enabled, "tls", os.Getenv("DOCKER_TLS") != "", "Use TLS; implied by --tlsverify")
	fs.StringVar(&s.TLS.CA, "tlscacert", s.TLS.CA, "Trust certs signed only by this CA")
	fs.StringVar(&s.TLS.Cert, "tlscert", s.TLS.Cert, "Path to TLS certificate file")
	fs.StringVar(&s.TLS.Key, "tlskey", s.TLS.Key, "Path to TLS key file")
	fs.BoolVar(&s.TLS.Verify, "tlsverify", os.Getenv("DOCKER_TLS_VERIFY") != "", "Use TLS and verify the remote")
	fs.BoolP("version", "v", false, "Print version information and quit")
	for name, value := range map[string]string{
		"config": dir, "tlscacert": filepath.Join(certs, "ca.pem"), "tlscert": filepath.Join(certs, "cert.pem"), "tlskey": filepath.Join(certs, "key.pem"),
	} {
		fs.Lookup(name).DefValue = value // what help shows; "" means it
	}
	fs.SetInterspersed(false)
	return global{fs}
}

// words reads the flags of args into the session and returns what follows
// them: a command and its arguments. Flags that do not parse are left to the
// command tree, which reports them.
func (g global) words(args []string) []string {
	if err := g.Parse(args); err != nil {
		return nil
	}
	return g.Args()
}

// setLogLevel checks --log-level. The libraries that connect through ssh log
// with logrus's own logger; it follows.
func setLogLevel(s *session.Session) error {
	level, err := logrus.ParseLevel(s.LogLevel)
	if err != nil {
		return &session.StatusError{Code: 1, Text: "Unable to parse logging level: " + s.LogLevel}
	}
	if s.Level() == slog.LevelDebug {
		level = max(level, logrus.DebugLevel)
	}
	logrus.SetLevel(level)
	return nil
}
