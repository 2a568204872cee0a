package caps

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// Host returns the capabilities that this process can give to its children: its bounding set, as
// /proc/self/status shows it (proc_pid_status(5), CapBnd), as far as they are known here. It is what the kernel
// has, less what whoever started the engine took away (a container around it, CapabilityBoundingSet= of a unit).
func Host() (Set, error) {
	const path = "/proc/self/status"
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	s, err := bounding(b)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return s & All, nil
}

func bounding(status []byte) (Set, error) {
	lines := bufio.NewScanner(bytes.NewReader(status))
	for lines.Scan() {
		hex, ok := bytes.CutPrefix(lines.Bytes(), []byte("CapBnd:"))
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(string(bytes.TrimSpace(hex)), 16, 64)
		return Set(n), err
	}
	return 0, fmt.Errorf("no line CapBnd")
}
