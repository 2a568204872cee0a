// Package registry is the verbs of registries: login, logout, search.
package registry

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/credentials"
)

// Login is `login`.
var Login = &command.Command{
	Name: "login", Args: "[OPTIONS] [SERVER]", Short: "Log in to a registry",
	Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		user := fs.StringP("username", "u", "", "User")
		password := fs.StringP("password", "p", "", "Password or token")
		stdin := fs.Bool("password-stdin", false, "Read the password from stdin")
		insecure := fs.Bool("insecure", false, "Plain HTTP will do, and any certificate")
		return func(ctx context.Context, env *command.Env, args []string) error {
			if *stdin && fs.Changed("password") {
				return errors.New("--password and --password-stdin are mutually exclusive")
			}
			if *stdin && *user == "" {
				return errors.New("Must provide --username with --password-stdin") //nolint:staticcheck // Docker's words
			}
			server := ""
			if len(args) > 0 {
				server = args[0]
			}
			store, err := credentials.Open(env)
			if err != nil {
				return err
			}
			a := credentials.Auth{Username: *user, Password: *password, ServerAddress: credentials.Key(server)}
			if fs.Changed("password") {
				fmt.Fprintln(env.IO.Err, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
			}
			known := false
			switch {
			case *stdin:
				data, err := io.ReadAll(io.LimitReader(env.IO.In, 64<<10))
				if err != nil {
					return err
				}
				a.Password = strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
			case *user == "" && *password == "":
				if a, err = store.Get(ctx, server); err != nil {
					return err
				}
				if known = a.Header() != ""; known {
					fmt.Fprint(env.IO.Out, "Authenticating with existing credentials...")
					if a.Username != "" {
						fmt.Fprintf(env.IO.Out, " [Username: %s]", a.Username)
					}
					fmt.Fprintln(env.IO.Out)
				}
			}
			a.ServerAddress = credentials.Key(server)
			if !known && (a.Username == "" || a.Password == "") {
				if err := ask(env, &a); err != nil {
					return err
				}
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			reply, err := c.RegistryLogin(ctx, a, *insecure)
			if err != nil && known {
				fmt.Fprintln(env.IO.Err, "Login did not succeed, error: "+err.Error())
				a.Password, a.IdentityToken = "", ""
				if err := ask(env, &a); err != nil {
					return err
				}
				reply, err = c.RegistryLogin(ctx, a, *insecure)
			}
			if err != nil {
				return err
			}
			if reply.IdentityToken != "" {
				a.Password, a.IdentityToken = "", reply.IdentityToken
			}
			plain, err := store.Put(ctx, server, a)
			if err != nil {
				return fmt.Errorf("Error saving credentials: %w", err) //nolint:staticcheck // Docker's words
			}
			if plain && !known {
				fmt.Fprintf(env.IO.Err, "\nWARNING! Your credentials are stored unencrypted in '%s'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n\n", store.Path())
			}
			if reply.Status != "" {
				fmt.Fprintln(env.IO.Out, reply.Status)
			}
			return nil
		}
	},
}

// ask reads user and password from the terminal; the password is not shown.
func ask(env *command.Env, a *credentials.Auth) error {
	if !env.IO.InIsTerminal() {
		return errors.New("Error: Cannot perform an interactive login from a non TTY device") //nolint:staticcheck // Docker's words
	}
	in := bufio.NewReader(env.IO.In)
	if a.Username != "" {
		fmt.Fprintf(env.IO.Out, "Username (%s): ", a.Username)
	} else {
		fmt.Fprint(env.IO.Out, "Username: ")
	}
	line, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	if line = strings.TrimSpace(line); line != "" {
		a.Username = line
	}
	if a.Username == "" {
		return errors.New("Error: Non-null Username Required") //nolint:staticcheck // Docker's words
	}
	fmt.Fprint(env.IO.Out, "Password: ")
	a.Password, err = env.IO.Secret()
	fmt.Fprintln(env.IO.Out)
	if err == nil && a.Password == "" {
		err = errors.New("Error: Password Required") //nolint:staticcheck // Docker's words
	}
	return err
}
