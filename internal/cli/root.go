// Package cli is the command line: it finds the verb, runs it, and turns what comes of it into an exit code.
//
// The verbs are in a folder for each noun, one file a verb, made of internal/cli/command. Every verb is also in its
// group: `ps` is `container ls`. Nothing is set up before the verb is known.
package cli

import (
	"gantry/internal/cli/build"
	"gantry/internal/cli/command"
	"gantry/internal/cli/container"
	"gantry/internal/cli/image"
	"gantry/internal/cli/network"
	"gantry/internal/cli/registry"
	"gantry/internal/cli/system"
	"gantry/internal/cli/volume"
)

// groups returns the nouns.
func groups() []*command.Group {
	return []*command.Group{
		{Name: "builder", Short: "Manage builds", Commands: []*command.Command{
			{Name: "build", Args: "[OPTIONS] PATH | URL | -", Short: "Build an image from a Dockerfile", Min: 1, Max: 1, Flags: build.Build},
			{Name: "prune", Short: "Remove what builds left in the cache", Flags: build.Prune},
			{Name: "du", Short: "Show what builds keep on disk", Flags: build.DiskUsage},
		}},
		{Name: "buildx", Short: "Docker's other name for builder", Commands: []*command.Command{
			{Name: "build", Args: "[OPTIONS] PATH | URL | -", Short: "Build an image from a Dockerfile", Min: 1, Max: 1, Aliases: []string{"b"}, Flags: build.Build},
			{Name: "prune", Short: "Remove what builds left in the cache", Flags: build.Prune},
			{Name: "du", Short: "Show what builds keep on disk", Flags: build.DiskUsage},
		}},
		{Name: "container", Short: "Manage containers", Commands: []*command.Command{
			container.Attach, container.Commit, container.Copy, container.Create, container.Diff, container.Exec, container.Export, container.Inspect,
			container.Kill, container.Logs, container.List, container.Pause, container.Port, container.Prune, container.Rename, container.Restart, container.Remove,
			container.Run, container.Start, container.Stop, container.Top, container.Unpause, container.Wait,
		}},
		{Name: "image", Short: "Manage images", Commands: []*command.Command{
			{Name: "build", Top: "build", Args: "[OPTIONS] PATH | URL | -", Short: "Build an image from a Dockerfile", Min: 1, Max: 1, Flags: build.Build}, image.History, image.Import, image.Inspect, image.Load, image.List, image.Prune, image.Pull, image.Push, image.Remove, image.Save, image.Tag, image.Update,
		}},
		{Name: "manifest", Short: "Look at images in registries", Commands: []*command.Command{image.ManifestInspect}},
		{Name: "network", Short: "Manage networks", Commands: []*command.Command{
			network.Connect, network.Create, network.Disconnect, network.Explain, network.Inspect, network.List, network.Prune, network.Remove,
		}},
		{Name: "system", Short: "Manage the engine", Commands: []*command.Command{
			system.Check, system.DiskUsage, system.Events, system.Info, system.Prune,
		}},
		{Name: "volume", Short: "Manage volumes", Commands: []*command.Command{
			volume.Clone, volume.Create, volume.Export, volume.Import, volume.Inspect, volume.List, volume.Prune, volume.Remove, volume.Snapshot, volume.Update,
		}},
	}
}

// others are the verbs that belong to no noun.
func others() []*command.Command {
	return []*command.Command{registry.Login, registry.Logout, registry.Search, system.Inspect, system.Undo, system.Version}
}
