package registry

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"gantry/internal/atomicfile"
)

// CAFile is where, below a data folder, an automatic authority's certificate is: what clients must trust.
func CAFile(data string) string { return filepath.Join(data, "tls", "ca.crt") }

const (
	caLife   = 20 * 365 * 24 * time.Hour
	certLife = 365 * 24 * time.Hour
	// renewBefore is how long before its end a certificate is made anew.
	renewBefore = 30 * 24 * time.Hour
)

// authorityTLS is a certificate authority of one registry. Its key signs nothing but this registry's certificate, and
// its certificate says so by permitting no other purpose.
type authorityTLS struct {
	dir   string
	names []string
	log   *slog.Logger
	ca    *x509.Certificate
	caKey *ecdsa.PrivateKey

	mu   sync.Mutex
	leaf *tls.Certificate
}

// autoTLS returns a configuration with a certificate for this host's names and addresses, and for names.
func autoTLS(data string, names []string, log *slog.Logger) (*tls.Config, error) {
	a := &authorityTLS{dir: filepath.Join(data, "tls"), names: names, log: log}
	if err := os.MkdirAll(a.dir, 0o755); err != nil {
		return nil, err
	}
	if err := atomicfile.Sweep(a.dir); err != nil { // keys, of somebody who was killed while writing them
		return nil, err
	}
	if err := a.openCA(); err != nil {
		return nil, err
	}
	if _, err := a.certificate(nil); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: a.certificate}, nil
}

// publishCA puts the authority's certificate where engines of this host look for it.
func publishCA(data, dir, port string, names []string) error {
	pem, err := os.ReadFile(CAFile(data))
	if err != nil {
		return err
	}
	hosts := append([]string{"localhost", "127.0.0.1"}, names...)
	if host, err := os.Hostname(); err == nil && host != "" {
		hosts = append(hosts, host)
	}
	for _, host := range hosts {
		if host != filepath.Base(host) {
			return fmt.Errorf("invalid name %q", host)
		}
		d := filepath.Join(dir, net.JoinHostPort(host, port))
		if was, err := os.ReadFile(filepath.Join(d, "ca.crt")); err == nil && bytes.Equal(was, pem) {
			continue // also where nothing can be written
		}
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := atomicfile.WriteSync(filepath.Join(d, "ca.crt"), pem, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		panic(err)
	}
	return n
}

func (a *authorityTLS) openCA() error {
	cert, key, err := readPair(filepath.Join(a.dir, "ca.crt"), filepath.Join(a.dir, "ca.key"))
	if err == nil {
		a.ca, a.caKey = cert, key
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"Gantry"}, CommonName: "Gantry registry on " + host},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(caLife), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	if a.ca, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	a.caKey = key
	return writePair(filepath.Join(a.dir, "ca"), der, key)
}

// wanted is what the certificate is to be good for.
func (a *authorityTLS) wanted() (dns []string, ips []net.IP) {
	dns = []string{"localhost"}
	if host, err := os.Hostname(); err == nil && host != "" {
		dns = append(dns, host)
	}
	ips = []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, addr := range addrs {
			if n, ok := addr.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				ips = append(ips, n.IP)
			}
		}
	}
	for _, n := range a.names {
		if ip := net.ParseIP(n); ip != nil {
			ips = append(ips, ip)
		} else {
			dns = append(dns, n)
		}
	}
	slices.Sort(dns)
	return slices.Compact(dns), ips
}

func (a *authorityTLS) good(c *x509.Certificate) bool {
	if time.Now().Add(renewBefore).After(c.NotAfter) || c.CheckSignatureFrom(a.ca) != nil {
		return false
	}
	dns, ips := a.wanted()
	for _, n := range dns {
		if !slices.Contains(c.DNSNames, n) {
			return false
		}
	}
	return !slices.ContainsFunc(ips, func(ip net.IP) bool { return !slices.ContainsFunc(c.IPAddresses, ip.Equal) })
}

// certificate is tls.Config.GetCertificate. It makes a new one before the old one ends; a new address of the host
// takes effect with the next start.
func (a *authorityTLS) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.leaf != nil && time.Now().Add(renewBefore).Before(a.leaf.Leaf.NotAfter) {
		return a.leaf, nil
	}
	cert, key, err := readPair(filepath.Join(a.dir, "server.crt"), filepath.Join(a.dir, "server.key"))
	if err != nil || !a.good(cert) {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, err
		}
		dns, ips := a.wanted()
		now := time.Now()
		t := &x509.Certificate{
			SerialNumber: serial(), Subject: pkix.Name{CommonName: dns[0]}, DNSNames: dns, IPAddresses: ips,
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certLife),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		der, err := x509.CreateCertificate(rand.Reader, t, a.ca, key.Public(), a.caKey)
		if err != nil {
			return nil, err
		}
		if cert, err = x509.ParseCertificate(der); err != nil {
			return nil, err
		}
		if err := writePair(filepath.Join(a.dir, "server"), der, key); err != nil {
			// It is as good in memory: a full disk, or a folder that somebody deleted, is no reason to serve nobody.
			a.log.Warn("keep the certificate for the next start", "err", err)
		}
	}
	a.leaf = &tls.Certificate{Certificate: [][]byte{cert.Raw, a.ca.Raw}, PrivateKey: key, Leaf: cert}
	return a.leaf, nil
}

func readPair(certPath, keyPath string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	var der [2][]byte
	for i, path := range []string{certPath, keyPath} {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, err
		}
		block, _ := pem.Decode(b)
		if block == nil {
			return nil, nil, fmt.Errorf("%s: no PEM block", path)
		}
		der[i] = block.Bytes
	}
	cert, err := x509.ParseCertificate(der[0])
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", certPath, err)
	}
	key, err := x509.ParseECPrivateKey(der[1])
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", keyPath, err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("%s does not belong to %s: %w", keyPath, certPath, fs.ErrNotExist)
	}
	return cert, key, nil
}

// writePair writes the key first: a certificate without its key is no pair, and made again.
func writePair(path string, der []byte, key *ecdsa.PrivateKey) error {
	b, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteSync(path+".key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: b}), 0o600); err != nil {
		return err
	}
	return atomicfile.WriteSync(path+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}
