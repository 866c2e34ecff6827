package report

import (
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
)

// A Machine describes the machine on which a comparison ran.
type Machine struct {
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	GOMAXPROCS int    `json:"gomaxprocs"`
	System     string `json:"system"`
}

func thisMachine() Machine {
	return Machine{
		CPU:        cpu(),
		Cores:      runtime.NumCPU(),
		GOMAXPROCS: runtime.GOMAXPROCS(0),
		System:     runtime.GOOS + "/" + runtime.GOARCH,
	}
}

var cpuModel = regexp.MustCompile(`(?m)^model name\s*:\s*(.*)$`)

// cpu returns the processor's name if the system has it in /proc/cpuinfo, as Linux does.
func cpu() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	if m := cpuModel.FindSubmatch(info); m != nil {
		return string(m[1])
	}
	return "unknown"
}

func goVersion() string { return strings.TrimPrefix(runtime.Version(), "go") }

// moduleVersion returns the version of a module that this program was built with.
func moduleVersion(module string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok || module == "" {
		return ""
	}
	for _, dep := range info.Deps {
		if dep.Path != module {
			continue
		}
		if dep.Replace != nil {
			return "this checkout"
		}
		return dep.Version
	}
	return ""
}
