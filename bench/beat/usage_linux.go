package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// usage is the CPU time of a process so far, in seconds, and its resident memory,
// in MiB. The scheduler's own account is finer than clock ticks.
func usage(pid int) (cpu, rss float64, err error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0, 0, err
	}
	for _, t := range tasks {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name()))
		if err != nil {
			continue // the thread has ended
		}
		ns, err := strconv.ParseFloat(strings.Fields(string(raw))[0], 64)
		if err != nil {
			return 0, 0, err
		}
		cpu += ns / 1e9
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, 0, err
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(raw))[1], 64)
	return cpu, pages * float64(os.Getpagesize()) / (1 << 20), err
}
