// Package network connects containers: to each other, to the host and, by published ports, to the world.
//
// A network is a record in the state file: its subnets, its driver, its options. What stands for it in the kernel (a
// bridge, entries in the nf_tables table of package firewall) is made when a container first needs it after a boot.
// To join, a container gets a network namespace, and in it one interface for each of its networks; the namespace lives
// as long as a process is in it, so what was made for a container goes with it, whoever is killed when. (So do the relay's
// sockets in it, package relay: they are closed when the container leaves.)
//
// What a container holds (addresses, ports, names of interfaces) is noted in one file below the exec-root before any of
// it is made, and that file is deleted when all of it is given back. It is at once the lease, which keeps two containers
// from having one address, and the journal: what the next engine finds there is either adopted, when the container runs,
// or given back. Giving back may be done twice. After a boot the folder is empty, as are the namespaces.
//
// The phrases of errors are dockerd's.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	api "github.com/moby/moby/api/types/network"

	"gantry/internal/errs"
	"gantry/internal/kernel/netns"
	"gantry/internal/network/firewall"
	"gantry/internal/network/ipam"
	"gantry/internal/network/portmap"
	"gantry/internal/network/relay"
	"gantry/internal/state"
)

// Events hears what happens to networks.
type Events interface {
	Network(action, id string, attrs map[string]string)
}

// Options are what the service stands on.
type Options struct {
	Run    string // a folder below the exec-root, for what containers hold
	State  *state.Store
	Events Events
	Log    *slog.Logger
	// Host is the namespace whose network containers are connected to.
	Host *netns.Namespace
	// Relay says what the relay is; Host and Log are those here.
	Relay relay.Options
	// New makes namespaces; nil is netns.New. Whoever keeps some ready puts them here.
	New func() (*netns.Namespace, error)

	Table    string       // of nf_tables
	Bridge   string       // the interface of the default network; "none": there is none
	Foreign  bool         // the user chose Bridge, which stays when the engine ends
	BIP      netip.Prefix // its address and subnet; invalid: from the pools
	Pools    []ipam.Pool  // of IPv4 subnets; nil are Docker's
	ULA      [5]byte      // what makes this host's IPv6 subnets its own
	MTU      int          // of new interfaces; 0: the uplink's
	Apart    bool         // containers of the default network do not reach each other, but by published ports and links
	Unmasked bool         // what goes out of it keeps its address
	Relayed  bool         // published ports are reached through the relay alone, so that the host's own rules for what comes in hold
	HostIP   netip.Addr   // where ports are published by default; invalid: everywhere
}

// Service answers for all networks. Its methods may be called from any goroutine. A ref is an ID, a name, or a unique
// prefix of an ID; errs.NotFound with Docker's "network … not found" otherwise.
type Service struct {
	Options
	table *firewall.Table
	ports *portmap.Book
	relay *relay.Keeper
	work  sync.WaitGroup

	diverting    sync.Mutex // divert.go
	diverts      atomic.Bool
	failedDivert bool
	guard        *guard

	mu     sync.Mutex
	kept   bool // Keep has been told who runs
	nets   map[string]*network
	names  map[string]string // → ID
	joined map[string]*joined
}

// Names of the networks that are always there.
const (
	Bridge = api.NetworkBridge
	Host   = api.NetworkHost
	None   = api.NetworkNone
)

// Open reads the networks and what containers hold. Nothing is made or deleted before [Service.Keep] says who runs.
func Open(ctx context.Context, o Options) (*Service, error) {
	if o.New == nil {
		o.New = netns.New
	}
	if o.Pools == nil {
		o.Pools = ipam.DefaultPools()
	}
	if err := os.MkdirAll(o.Run, 0o700); err != nil {
		return nil, err
	}
	s := &Service{Options: o, nets: map[string]*network{}, names: map[string]string{}, joined: map[string]*joined{}, ports: portmap.New(o.Host)}
	if err := s.load(); err != nil {
		return nil, err
	}
	if err := s.predefine(); err != nil {
		return nil, err
	}
	if err := s.readJoined(); err != nil {
		return nil, err
	}
	err := o.Host.Do(func() (err error) {
		s.table, err = firewall.Open(o.Table, o.Log)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the firewall: %w", err)
	}
	o.Relay.Host, o.Relay.Log = o.Host, o.Log
	if s.relay, err = relay.Open(o.Relay); err != nil {
		s.table.Close()
		return nil, fmt.Errorf("find the relay: %w", err)
	}
	return s, nil
}

// Close ends the service's own work. Containers stay connected, their ports published and held, and their names answered:
// the relay goes on, unless it holds nothing. Where no container is connected nothing is left on the host.
func (s *Service) Close() {
	s.work.Wait()
	s.diverting.Lock()
	s.endGuard() // the rule stays for those that run on
	s.diverting.Unlock()
	s.retire()
	s.table.PassLegacy()
	s.relay.Close()
	s.table.Close()
	s.ports.Close()
}

// Relay tells which relay serves; nil is none.
func (s *Service) Relay() *relay.Hello { return s.relay.Hello() }

// predefine makes bridge, host and none where they are missing.
func (s *Service) predefine() error {
	for _, n := range []struct{ name, driver string }{{None, "null"}, {Host, "host"}} {
		if s.names[n.name] == "" {
			if err := s.add(newNetwork(record{Name: n.name, Driver: n.driver})); err != nil {
				return err
			}
		}
	}
	if s.Options.Bridge == "none" {
		return nil
	}
	id := s.names[Bridge]
	old := s.nets[id]
	binding := s.HostIP
	if !binding.Is4() {
		binding = netip.IPv4Unspecified()
	}
	r := record{Name: Bridge, Driver: "bridge", BridgeName: s.Options.Bridge, IPv4: true, Options: map[string]string{
		optDefault: "true", optICC: strconv.FormatBool(!s.Apart), optMasquerade: strconv.FormatBool(!s.Unmasked), optHostBinding: binding.String(), optName: s.Options.Bridge,
	}}
	same := old != nil && old.BridgeName == s.Options.Bridge && (!s.BIP.IsValid() || len(old.IPAM) > 0 && old.IPAM[0].Gateway == s.BIP.Addr())
	if same && maps.Equal(old.Options, r.Options) {
		return nil
	}
	if same {
		r.IPAM = old.IPAM
	} else if s.BIP.IsValid() {
		r.IPAM = []subnet{{Subnet: s.BIP.Masked(), Gateway: s.BIP.Addr()}}
	} else {
		busy, err := s.busy(id)
		if err != nil {
			return err
		}
		chosen, err := ipam.Choose(s.Pools, false, busy)
		if err != nil {
			return err
		}
		r.IPAM = []subnet{{Subnet: chosen}}
	}
	if old != nil {
		r.ID, r.Created = old.ID, old.Created
		delete(s.nets, id)
		delete(s.names, Bridge)
	}
	n := newNetwork(r)
	if err := n.plan(); err != nil {
		return err
	}
	return s.add(n)
}

// busy are the subnets that a new network must keep clear of: what the host's addresses and routes cover now, and other
// networks, but for the one with this ID.
func (s *Service) busy(but string) (list []netip.Prefix, err error) {
	own := map[netip.Prefix]bool{}
	for _, n := range s.nets {
		for _, x := range n.subnets {
			if n.ID == but {
				own[x.Subnet] = true
			} else {
				list = append(list, x.Subnet)
			}
		}
	}
	addrs, err := s.Options.Host.Links().Addrs()
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if p := a.Prefix.Masked(); !own[p] && !a.Prefix.Addr().IsLinkLocalUnicast() {
			list = append(list, p)
		}
	}
	routes, err := s.Options.Host.Links().Routes()
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if r.Dst.Bits() > 0 && !own[r.Dst] && !r.Dst.Addr().IsLinkLocalUnicast() {
			list = append(list, r.Dst)
		}
	}
	return list, nil
}

// find resolves a ref. s.mu is held.
func (s *Service) find(ref string) (*network, error) {
	if ref == "" {
		return nil, errs.Invalid.Errorf("invalid network name or ID supplied")
	}
	if n := s.nets[ref]; n != nil {
		return n, nil
	}
	if n := s.nets[s.names[ref]]; n != nil {
		return n, nil
	}
	if ref == api.NetworkDefault {
		return s.find(s.defaultName())
	}
	var found *network
	for id, n := range s.nets {
		if len(ref) < len(id) && id[:len(ref)] == ref {
			if found != nil {
				return nil, errs.Invalid.Errorf("network %s is ambiguous (2 matches found based on ID prefix)", ref)
			}
			found = n
		}
	}
	if found == nil {
		return nil, errs.NotFound.Errorf("network %s not found", ref)
	}
	return found, nil
}

// defaultName is the network of containers that name none.
func (s *Service) defaultName() string {
	if s.Options.Bridge == "none" {
		return None
	}
	return Bridge
}

func (s *Service) event(n *network, action string, more ...string) {
	if s.Events == nil {
		return
	}
	attrs := map[string]string{"name": n.Name, "type": n.Driver}
	for i := 0; i+1 < len(more); i += 2 {
		attrs[more[i]] = more[i+1]
	}
	s.Events.Network(action, n.ID, attrs)
}

// Name returns the full name of the network ref; "default" is that of containers that name none.
func (s *Service) Name(ref string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.find(ref)
	if err != nil {
		return "", err
	}
	return n.Name, nil
}

// HostGateway is what host-gateway stands for in --add-host: the address of the host in the default network.
func (s *Service) HostGateway() (netip.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nets[s.names[Bridge]]
	if n == nil || len(n.subnets) == 0 {
		return netip.Addr{}, errors.New("unable to derive the IP value for host-gateway")
	}
	return n.subnets[0].Gateway, nil
}
