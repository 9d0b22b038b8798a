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
	APIMin = "1.40"
	// APIFloor is the lowest version that APIMin can be lowered to by the
	// min-api-version key or DOCKER_MIN_API_VERSION.
	APIFloor = "1.24"
)
