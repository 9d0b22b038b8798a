// Package version names the product and its build. The linker sets the
// variables (-X); a plain go build reports a development version.
package version

// Product is the name that the programs report.
const Product = "Lighter"

// Set by the linker.
var (
	Version   = "0.1.0-dev"
	GitCommit = "unknown"
	BuildTime = ""
)

// The Engine API versions that this build speaks.
const (
	APIMax = "1.56"
	// APIMin is the lowest version, which min-api-version and
	// DOCKER_MIN_API_VERSION can raise. Docker 29 begins at 1.40, which locks
	// out older tools.
	APIMin = "1.24"
)
