package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets this program be what runs inside the groups as well.
func TestMain(m *testing.M) {
	if what, ok := os.LookupEnv("CGROUP_TEST_HELPER"); ok {
		if err := help(strings.Fields(what)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func helper(what string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CGROUP_TEST_HELPER="+what)
	return cmd
}

func help(args []string) error {
	switch args[0] {
	case "hog": // takes 1 GB of memory
		b := make([]byte, 1<<30)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		fmt.Println("survived")
	case "spin": // uses all the CPU it gets for a while
		d, err := time.ParseDuration(args[1])
		if err != nil {
			return err
		}
		for end := time.Now().Add(d); time.Now().Before(end); {
			_ = end
		}
	case "count": // counts aloud
		for i := 0; ; i++ {
			fmt.Println(i)
			time.Sleep(time.Millisecond)
		}
	case "open": // tells how opening each device node goes, which it makes: kind, major, minor, access
		for _, a := range args[1:] {
			var kind string
			var major, minor uint32
			var access string
			if _, err := fmt.Sscanf(strings.ReplaceAll(a, ",", " "), "%s %d %d %s", &kind, &major, &minor, &access); err != nil {
				return err
			}
			mode, name := uint32(unix.S_IFCHR), "node"
			if kind == "b" {
				mode = unix.S_IFBLK
			}
			_ = os.Remove(name)
			if err := unix.Mknod(name, mode|0o600, int(unix.Mkdev(major, minor))); err != nil {
				fmt.Println(a, "mknod", errname(err))
				continue
			}
			flags := map[string]int{"r": unix.O_RDONLY, "w": unix.O_WRONLY, "rw": unix.O_RDWR}[access]
			fd, err := unix.Open(name, flags|unix.O_NONBLOCK, 0)
			if err == nil {
				unix.Close(fd)
			}
			fmt.Println(a, errname(err))
			_ = os.Remove(name)
		}
	case "vacate": // makes a group below its own, where it is an internal process
		h, err := Detect()
		if err != nil {
			return err
		}
		g, err := h.Create("below", "x", Resources{PidsLimit: 5, Memory: 64 << 20})
		if err != nil {
			return err
		}
		defer g.Remove()
		fmt.Println(g.Path("memory"))
		fmt.Println(h.Own().Path(""))
		// Wait to be looked at.
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	default:
		return errors.New("unknown helper " + args[0])
	}
	return nil
}

func errname(err error) string {
	if err == nil {
		return "ok"
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}
