package registry_test

import (
	"testing"

	"gantry/internal/registry"
	"gantry/internal/registry/storagetest"
)

func TestMemory(t *testing.T) {
	storagetest.Run(t, func(*testing.T) registry.Storage { return registry.NewMemory() })
}
