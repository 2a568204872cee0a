package registry

// NewMemory is a Storage for tests.
func NewMemory() Storage { return newMemory() }
