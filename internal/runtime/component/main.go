package component

import (
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/message"
	"gantry/internal/runtime/fork"
)

// The words of a component's command line. Only the engine, and the component's version before, say them.
const (
	dirFlag   = "-exec-root"
	buildFlag = "-build"
	readyFlag = "-ready"
	stateFlag = "-state"
	checkFlag = "-check"
)

// Conf says how a component is to serve.
type Conf struct {
	Dir   string // the exec-root
	Build string
	Ready int // fd to close when the socket listens, or to write to why it does not; -1: nobody waits
	State int // after an upgrade: the fd of what the program before left; else -1
}

// ErrTaken: another process of this kind has this exec-root. That is no failure for who wanted one.
var ErrTaken = errors.New("another one runs")

// Main is a component's main function. further are the variables of further fds, by the flag that tells where they are;
// they have the numbers from 4 on when there is no such flag, which is where [Component.Start] puts them. check tells
// whether this program understands the state at fd; run serves, and returns only to say why it cannot.
func Main(name string, further map[string]*int, check func(fd int) error, run func(Conf) error) {
	// It idles with a small heap: memory counts, and two threads of Go suffice.
	debug.SetGCPercent(25)
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	conf := Conf{Ready: 3, State: -1}
	fail := func(text string) {
		if conf.Ready >= 0 {
			unix.Write(conf.Ready, []byte(text))
		}
		os.Stderr.WriteString(name + ": " + text + "\n")
		os.Exit(1)
	}
	checks, err := conf.parse(os.Args[1:], further)
	switch {
	case err != nil:
		fail(err.Error())
	case checks:
		if check(conf.State) != nil {
			os.Exit(1)
		}
		return
	}
	keep := []int{conf.Ready}
	for _, fd := range further {
		keep = append(keep, *fd)
	}
	if conf.State < 0 {
		fork.CloseInherited(keep...)
	}
	for _, fd := range keep {
		if fd >= 0 {
			unix.CloseOnExec(fd)
		}
	}
	if err := run(conf); err != ErrTaken {
		fail(err.Error())
	}
}

// parse reads the command line. Not package flag: it would bring fmt's and reflect's weight for five words. Words that are
// not known are a later version's, which knows that this one may be asked.
func (c *Conf) parse(args []string, further map[string]*int) (check bool, err error) {
	for len(args) > 0 {
		name := args[0]
		args = args[1:]
		if name == checkFlag {
			check = true
			continue
		}
		if len(args) == 0 {
			return false, errors.New("value missing for " + name)
		}
		value := args[0]
		args = args[1:]
		number := further[name]
		switch name {
		case dirFlag:
			c.Dir = value
		case buildFlag:
			c.Build = value
		case readyFlag:
			number = &c.Ready
		case stateFlag:
			number = &c.State
		}
		if number != nil {
			if *number, err = strconv.Atoi(value); err != nil {
				return false, errors.New(name + ": " + err.Error())
			}
		}
	}
	return check, nil
}

// Listen makes the socket name in dir, and returns it and the lock that says whose it is. One left by a process that was
// killed is replaced; while another one serves, it is ErrTaken.
func Listen(dir, name, lockName string) (listener, lock int, err error) {
	path := dir + "/" + lockName
	if lock, err = unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600); err != nil {
		return -1, -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	for unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB) != nil {
		if c, err := message.Dial(dir, name); err == nil {
			c.Close()
			unix.Close(lock)
			return -1, -1, ErrTaken
		}
		time.Sleep(time.Millisecond) // one that was killed holds it until its last thread is gone; or it is just starting
	}
	listener, err = message.Listen(dir, name)
	return listener, lock, err
}

// Trusted tells whether the process at the other end of a connection is of this one's user. The socket's mode says the same;
// this holds also where somebody changed that.
func Trusted(fd int) bool {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	return err == nil && int(cred.Uid) == os.Geteuid()
}
