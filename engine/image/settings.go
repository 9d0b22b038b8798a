package image

// Settings are what may change while a Service works.
type Settings struct {
	Registry RegistryConfig
	// MaxDownloads and MaxUploads bound the transfers of one pull or push; 0
	// means 3 and 5, Docker's defaults.
	MaxDownloads, MaxUploads int
	// DownloadAttempts bounds how often a transfer of a pull is tried; 0 means 5.
	DownloadAttempts int
}

func (s Settings) withDefaults() *Settings {
	if s.Registry.CertsDir == "" {
		s.Registry.CertsDir = "/etc/docker/certs.d"
	}
	if s.MaxDownloads <= 0 {
		s.MaxDownloads = 3
	}
	if s.MaxUploads <= 0 {
		s.MaxUploads = 5
	}
	return &s
}

// Reload replaces the settings; what is under way goes on with the former.
func (s *Service) Reload(settings Settings) { s.settings.Store(settings.withDefaults()) }
