package dockerfile

import "strings"

// env is an ordered set of variables. Copies share the list until one of them changes it: RUN after RUN has the same.
type env struct {
	list  []string // NAME=value
	index map[string]int
	// shared is set if somebody else has list.
	shared bool
	size   int
}

func newEnv(list []string) *env {
	e := &env{index: map[string]int{}}
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		e.set(k, v)
	}
	return e
}

// set adds or replaces a variable. One that is replaced keeps its place.
func (e *env) set(key, value string) {
	kv := key + "=" + value
	i, ok := e.index[key]
	if !ok {
		e.index[key] = len(e.list)
		// Beyond what others see of a shared list, so that it may be appended to.
		e.list = append(e.list, kv)
		e.size += len(kv)
		return
	}
	if e.shared {
		e.list, e.shared = append([]string(nil), e.list...), false
	}
	e.size += len(kv) - len(e.list[i])
	e.list[i] = kv
}

// slice returns all variables; it must not be changed.
func (e *env) slice() []string {
	e.shared = true
	return e.list[:len(e.list):len(e.list)]
}

// clone returns a copy.
func (e *env) clone() *env {
	c := &env{list: e.slice(), shared: true, index: make(map[string]int, len(e.index)), size: e.size}
	for k, i := range e.index {
		c.index[k] = i
	}
	return c
}

// Get implements shell.EnvGetter.
func (e *env) Get(key string) (string, bool) {
	i, ok := e.index[key]
	if !ok {
		return "", false
	}
	return e.list[i][len(key)+1:], true
}

// Keys implements shell.EnvGetter.
func (e *env) Keys() []string {
	keys := make([]string, len(e.list))
	for i, kv := range e.list {
		keys[i], _, _ = strings.Cut(kv, "=")
	}
	return keys
}
