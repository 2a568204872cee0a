package registry

import (
	"crypto/tls"
	"fmt"
	"reflect"
	"time"
)

// settings is what the registry was told, and what follows from it. A request may see two of them, one after the other.
type settings struct {
	cfg  Config
	auth *authority
	pair *tls.Certificate // of TLS mode "files"
}

func (s *Server) conf() *Config         { return &s.live.Load().cfg }
func (s *Server) authority() *authority { return s.live.Load().auth }

// settle makes cfg, which was checked, what counts.
func (s *Server) settle(cfg Config) error {
	n := &settings{cfg: cfg}
	var err error
	if n.auth, err = newAuthority(cfg.Auth, s.storage); err != nil {
		return err
	}
	if cfg.TLS.Mode == "files" {
		pair, err := tls.LoadX509KeyPair(cfg.TLS.Cert, cfg.TLS.Key)
		if err != nil {
			return fmt.Errorf("tls: %s with %s: %w", cfg.TLS.Cert, cfg.TLS.Key, err)
		}
		if now := time.Now(); now.After(pair.Leaf.NotAfter) || now.Before(pair.Leaf.NotBefore) {
			s.log.Warn("clients will not trust the certificate: have it made anew", "file", cfg.TLS.Cert, "from", pair.Leaf.NotBefore, "until", pair.Leaf.NotAfter)
		}
		n.pair = &pair
	}
	s.live.Store(n)
	return nil
}

// Reload takes in a changed configuration, and certificate files anew, while the registry runs. It returns the keys whose change needs a
// restart; they stay as they were. When it fails everything does.
func (s *Server) Reload(cfg Config) (restart []string, err error) {
	cfg.setDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	old := s.conf()
	for _, fixed := range []struct {
		key      string
		was, now any
		keep     func()
	}{
		{"listen", old.Listen, cfg.Listen, func() { cfg.Listen = old.Listen }},
		{"data", old.Data, cfg.Data, func() { cfg.Data = old.Data }},
		{"tls.mode", old.TLS.Mode, cfg.TLS.Mode, func() { cfg.TLS = old.TLS }},
		{"tls.names", old.TLS.Names, cfg.TLS.Names, func() { cfg.TLS.Names = old.TLS.Names }},
		{"proxy.upstreams", old.Proxy.Upstreams, cfg.Proxy.Upstreams, func() { cfg.Proxy.Upstreams, cfg.Proxy.Default = old.Proxy.Upstreams, old.Proxy.Default }},
		{"proxy.default", old.Proxy.Default, cfg.Proxy.Default, func() { cfg.Proxy.Default = old.Proxy.Default }},
	} {
		if !reflect.DeepEqual(fixed.was, fixed.now) {
			restart = append(restart, fixed.key)
			fixed.keep()
		}
	}
	if err := s.settle(cfg); err != nil {
		return nil, err
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return restart, nil
}
