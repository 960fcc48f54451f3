// Package version holds the version that the build sets.
package version

// Version is set by the linker: -X weft/internal/version.Version=1.2.3.
var Version = "dev"
