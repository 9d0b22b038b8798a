package image

import (
	"errors"
	"os"
	"strconv"

	"github.com/spf13/pflag"
)

// CheckTrust refuses a command that is to verify signatures, by the environment or
// by its flag: nothing here does, and an image that was not verified must not pass
// for one that was (CVE-2015-9258).
func CheckTrust(fs *pflag.FlagSet) error {
	flag := fs.Lookup("disable-content-trust")
	wanted, _ := strconv.ParseBool(os.Getenv("DOCKER_CONTENT_TRUST"))
	if flag.Changed {
		off, _ := strconv.ParseBool(flag.Value.String())
		wanted = !off
	}
	if wanted {
		return errors.New("content trust is not supported: unset DOCKER_CONTENT_TRUST, or give --disable-content-trust, to go on without verification")
	}
	return nil
}
