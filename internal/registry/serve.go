package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Serve answers at the configured address until ctx ends, then lets the requests under way come to their end, for a
// while. ready, if set, is told the address.
func (s *Server) Serve(ctx context.Context, ready func(net.Addr)) error {
	srv := s.httpServer()
	var err error
	switch s.conf().TLS.Mode {
	case "auto":
		if srv.TLSConfig, err = autoTLS(s.conf().Data, s.conf().TLS.Names, s.log); err != nil {
			return fmt.Errorf("tls: %w", err)
		}
		s.log.Info("clients must trust", "ca", CAFile(s.conf().Data))
	case "files":
		srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.live.Load().pair, nil
		}}
	}
	// Whoever can connect finds the authority where it belongs: it is put there first, where the port is known.
	_, port, _ := net.SplitHostPort(s.conf().Listen)
	listen := func() (net.Listener, error) { return (&net.ListenConfig{}).Listen(ctx, "tcp", s.conf().Listen) }
	if port != "0" && s.conf().TLS.Mode == "auto" {
		// But not in place of the authority of somebody who has that port.
		free, err := listen()
		if err != nil {
			return err
		}
		free.Close()
		s.publish(port)
	}
	l, err := listen()
	if err != nil {
		return err
	}
	defer l.Close()
	if port == "0" {
		_, port, _ = net.SplitHostPort(l.Addr().String())
		s.publish(port)
	}
	s.background.Go(func() { s.Run(ctx) })
	ended := make(chan error, 1)
	go func() {
		if srv.TLSConfig != nil {
			ended <- srv.ServeTLS(l, "", "")
		} else {
			ended <- srv.Serve(l)
		}
	}()
	s.log.Info("serving", "address", l.Addr().String(), "tls", s.conf().TLS.Mode, "data", s.conf().Data)
	if ready != nil {
		ready(l.Addr())
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := srv.Shutdown(last); err != nil {
		srv.Close()
	}
	<-ended
	return nil
}

// publish has the engines of this host trust an automatic certificate.
func (s *Server) publish(port string) {
	cfg := s.conf()
	if cfg.TLS.Mode != "auto" || cfg.TLS.Trust == "" {
		return
	}
	if err := publishCA(cfg.Data, cfg.TLS.Trust, port, cfg.TLS.Names); err != nil {
		s.log.Warn("engines of this host will not trust the certificate by themselves", "err", err)
	}
}

func (s *Server) httpServer() *http.Server {
	return &http.Server{
		Handler: s.Handler(),
		// Whole requests and answers have no deadline, only their pieces (response.go): a layer takes as long as it takes.
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// Close ends what goes on behind the requests.
func (s *Server) Close() error {
	s.cancel()
	s.background.Wait()
	return nil
}

// Serve runs a registry over st until ctx ends. What comes from reloads, which may be nil, replaces its configuration.
func Serve(ctx context.Context, cfg Config, st Storage, log *slog.Logger, ready func(net.Addr), reloads <-chan Config) error {
	s, err := New(cfg, st, log)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case cfg := <-reloads:
				switch restart, err := s.Reload(cfg); {
				case err != nil:
					s.log.Error("reloading the configuration failed; the old one stays", "err", err)
				case len(restart) > 0:
					s.log.Warn("configuration reloaded; what follows waits for a restart", "keys", restart)
				default:
					s.log.Info("configuration reloaded")
				}
			case <-ended:
				return
			}
		}
	}()
	return errors.Join(s.Serve(ctx, ready), s.Close())
}
