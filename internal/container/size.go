package container

import (
	"math"
	"os"
	"strconv"
	"strings"

	"gantry/internal/errs"
)

// ParseSize reads a number of bytes with an optional binary unit ("20m", "1.5 GiB"), as Docker does.
func ParseSize(s string) (int64, error) {
	bad := func() (int64, error) { return -1, errs.Invalid.Errorf("invalid size: '%s'", s) }
	i := strings.LastIndexAny(s, "0123456789.") + 1
	if i == 0 {
		return bad()
	}
	n, err := strconv.ParseFloat(s[:i], 64)
	if err != nil || n < 0 {
		return bad()
	}
	unit := strings.ToLower(strings.TrimPrefix(s[i:], " "))
	shift := 0
	if unit != "" {
		k := strings.IndexByte("kmgtp", unit[0])
		switch rest := unit[min(1, len(unit)):]; {
		case unit == "b":
		case k >= 0 && (rest == "" || rest == "b" || rest == "ib"):
			shift = 10 * (k + 1)
		default:
			return bad()
		}
	}
	n *= float64(int64(1) << shift)
	if n >= math.MaxInt64 {
		return bad()
	}
	return int64(n), nil
}

// maxOnlineCPU returns one more than the highest CPU that the kernel has, or 0 when it can't be told.
func maxOnlineCPU() int {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return 0
	}
	s := strings.TrimSpace(string(b))
	if i := strings.LastIndexAny(s, ",-"); i >= 0 {
		s = s[i+1:]
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n + 1
}
