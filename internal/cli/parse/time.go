package parse

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Time turns what users give as a time into what the API takes, seconds with nine digits of fraction: a duration ago (42m), RFC 3339
// and its beginnings (2026-01-02, 2026-01-02T15:04) in local time unless a zone is given, or seconds with an optional fraction.
func Time(s string, now time.Time) (string, error) {
	if s == "" || s == "0" {
		return s, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		// Whole seconds, as Docker has it: what happened in the second under way is not yet before it.
		return strconv.FormatInt(now.Add(-d).Unix(), 10), nil
	}
	layout := ""
	zone := strings.ContainsAny(s, "zZ+") || strings.Count(s, "-") == 3
	switch {
	case strings.Contains(s, ".") && strings.Contains(s, "T"):
		layout = "2006-01-02T15:04:05.999999999"
	case strings.Contains(s, "T"):
		switch strings.Count(s, ":") - boolInt(zone && !strings.ContainsAny(s, "zZ")) {
		case 0:
			layout = "2006-01-02T15"
		case 1:
			layout = "2006-01-02T15:04"
		default:
			layout = "2006-01-02T15:04:05"
		}
	case strings.Count(s, "-") >= 2:
		layout = "2006-01-02"
	}
	if layout == "" {
		// Seconds, perhaps with a fraction.
		if strings.Contains(s, "-") {
			return "", fmt.Errorf("parsing time %q as %q: cannot parse %q as %q", s, "2006-01-02", s, "2006")
		}
		sec, frac, _ := strings.Cut(s, ".")
		if _, err := strconv.ParseInt(sec, 10, 64); err != nil {
			return "", fmt.Errorf("failed to parse value as time or duration: %q", s)
		}
		if frac == "" {
			return sec, nil
		}
		if _, err := strconv.ParseUint(frac, 10, 63); err != nil {
			return "", fmt.Errorf("failed to parse value as time or duration: %q", s)
		}
		return s, nil
	}
	var t time.Time
	var err error
	if zone {
		t, err = time.Parse(layout+"Z07:00", s)
	} else {
		t, err = time.ParseInLocation(layout, s, now.Location())
	}
	if err != nil {
		return "", err
	}
	return stamp(t), nil
}

func stamp(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
