package evaluator

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

const (
	// defaultMemory is where a worker is replaced, in MiB, where nothing else is said.
	defaultMemory = 4096
	// usualMemory is what evaluating one NixOS host usually takes, in MiB, with room to spare.
	usualMemory = 1536
	// spareMemory is left for everything else on the machine, in MiB.
	spareMemory = 1024
)

// pool says how many processes evaluate at a time, and how much memory each may take, in MiB.
type pool struct {
	workers int
	// memory is where a process is ended.
	memory int
	// recycle is where a process gets no further host, so that it does not reach memory.
	recycle int
}

// sizePool completes the pool's numbers. Without a number of workers there is one a core, but no more than fit into the available memory:
// at the given bound each, or at the usual need where no bound was given. available is 0 where it is not known.
func sizePool(workers, memory, cores int, available uint64) pool {
	need := memory
	if memory <= 0 {
		memory, need = defaultMemory, usualMemory
	}
	mib := int(available>>20) - spareMemory
	if workers <= 0 {
		workers = max(1, cores)
		if available > 0 {
			workers = max(1, min(workers, mib/need))
		}
	}
	// A process grows with each host; together they should stay within what is there.
	recycle := memory * 2 / 3
	if available > 0 {
		recycle = min(recycle, max(need*2/3, mib/workers))
	}
	return pool{workers: workers, memory: memory, recycle: recycle}
}

// availableMemory is MemAvailable of Linux, in bytes; 0 where it is not known.
func availableMemory() uint64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	return parseMeminfo(data)
}

func parseMeminfo(data []byte) uint64 {
	for line := range bytes.Lines(data) {
		words := strings.Fields(string(line))
		if len(words) >= 2 && words[0] == "MemAvailable:" {
			kib, err := strconv.ParseUint(words[1], 10, 54)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}

// residentMemory is what a process holds, in bytes; 0 where the system does not tell (proc(5), statm).
func residentMemory(pid int) uint64 {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	words := strings.Fields(string(data))
	if len(words) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(words[1], 10, 48)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}
