package runner

import (
	"os"
	"strconv"
	"strings"
)

// hostLoad is the host's load of the last minute, as uptime tells it; 0 where
// it cannot be read.
func hostLoad() float64 {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(data), " ")
	load, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return load
}
