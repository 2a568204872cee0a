package dockerfile

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gantry/internal/build/graph"
)

// gitRef is the address of something in a git repository:
//
//	https://host/path.git#ref:dir    only with .git
//	git://host/path, ssh://…
//	user@host:path                   scp(1)'s way
//
// Instead of the fragment, or besides it, there may be a query: ref, branch, tag, subdir, checksum (or commit),
// keep-git-dir, submodules, fetch-by-commit.
type gitRef struct {
	remote, ref, subdir, checksum string
	keepGitDir, submodules        *bool
	fetchByCommit                 bool
}

var (
	scheme = regexp.MustCompile(`^[a-zA-Z0-9]+://`)
	scp    = regexp.MustCompile(`^([a-zA-Z0-9-_]+)@([a-zA-Z0-9-.]+):(.*?)(?:\?(.*?))?(?:#(.*))?$`)
)

// parseGit reads s, and says whether it is such an address at all. Only if it is, err says what is wrong with it.
func parseGit(s string) (ref *gitRef, isGit bool, err error) {
	g := &gitRef{}
	var query url.Values
	fragment := ""
	if scheme.MatchString(s) {
		u, err := url.Parse(s)
		if err != nil {
			return nil, false, err
		}
		switch strings.ToLower(u.Scheme) {
		case "http", "https":
			if !strings.HasSuffix(u.Path, ".git") {
				return nil, false, errors.New("not a git repository's address")
			}
		case "ssh", "git":
		default:
			return nil, false, errors.New("not a git repository's address")
		}
		query, fragment = u.Query(), u.Fragment
		u.Fragment, u.RawFragment, u.RawQuery = "", "", ""
		g.remote = u.String()
	} else if m := scp.FindStringSubmatch(s); m != nil {
		g.remote, fragment = m[1]+"@"+m[2]+":"+m[3], m[5]
		if query, err = url.ParseQuery(m[4]); err != nil {
			return nil, false, err
		}
	} else {
		return nil, false, errors.New("not a git repository's address")
	}
	if fragment != "" {
		g.ref, g.subdir, _ = strings.Cut(fragment, ":")
		g.subdir = strings.TrimPrefix(path.Join("/", g.subdir), "/")
	}
	if err := g.readQuery(query); err != nil {
		return nil, true, err
	}
	return g, true, nil
}

func (g *gitRef) readQuery(query url.Values) error {
	flag := func(key, value string) (*bool, error) {
		b := true
		if value != "" {
			var err error
			if b, err = strconv.ParseBool(value); err != nil {
				return nil, fmt.Errorf("invalid %s value: %q", key, value)
			}
		}
		return &b, nil
	}
	agree := func(what string, field *string, value string) error {
		if *field != "" && *field != value {
			return fmt.Errorf("%s conflicts: %q vs %q", what, *field, value)
		}
		*field = value
		return nil
	}
	keys := make([]string, 0, len(query))
	for k := range query {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	tag, branch := "", ""
	for _, k := range keys {
		if len(query[k]) > 1 {
			return fmt.Errorf("query %q has multiple values", k)
		}
		v := query.Get(k)
		if v == "" && k != "submodules" && k != "keep-git-dir" && k != "fetch-by-commit" {
			return fmt.Errorf("query %q has no value", k)
		}
		var err error
		switch k {
		case "ref":
			err = agree("ref", &g.ref, v)
		case "tag":
			tag = v
		case "branch":
			branch = v
		case "subdir":
			err = agree("subdir", &g.subdir, v)
		case "checksum", "commit":
			g.checksum = v
		case "keep-git-dir":
			g.keepGitDir, err = flag(k, v)
		case "submodules":
			g.submodules, err = flag(k, v)
		case "fetch-by-commit":
			var b *bool
			if b, err = flag(k, v); err == nil {
				g.fetchByCommit = *b
			}
		default:
			err = fmt.Errorf("unexpected query %q", k)
		}
		if err != nil {
			return err
		}
	}
	if tag != "" {
		if err := agree("ref", &g.ref, "refs/tags/"+strings.TrimPrefix(tag, "refs/tags/")); err != nil {
			return err
		}
	}
	if branch != "" {
		if tag != "" {
			return errors.New("branch conflicts with tag")
		}
		return agree("ref", &g.ref, "refs/heads/"+strings.TrimPrefix(branch, "refs/heads/"))
	}
	return nil
}

func (g *gitRef) op() *graph.Git {
	op := &graph.Git{Remote: g.remote, Ref: g.ref, Checksum: g.checksum, Subdir: g.subdir, FetchByCommit: g.fetchByCommit}
	op.KeepGitDir = g.keepGitDir != nil && *g.keepGitDir
	op.SkipSubmodules = g.submodules != nil && !*g.submodules
	// A default for private repositories: used if the client has them.
	op.TokenSecret, op.HeaderSecret = "GIT_AUTH_TOKEN", "GIT_AUTH_HEADER"
	if !strings.HasPrefix(g.remote, "http://") && !strings.HasPrefix(g.remote, "https://") && !strings.HasPrefix(g.remote, "git://") {
		op.SSH = "default"
	}
	return op
}
