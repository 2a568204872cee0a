package network

import (
	"context"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	api "github.com/moby/moby/api/types/network"

	"gantry/internal/errs"
	"gantry/internal/failpoint"
	"gantry/internal/ids"
	"gantry/internal/network/ipam"
	"gantry/internal/state"
)

const (
	bucket  = "networks"
	version = 1 // of record
)

// record is a network as the state file keeps it.
type record struct {
	V          int               `json:"v"`
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Created    time.Time         `json:"created"`
	Driver     string            `json:"driver"`
	BridgeName string            `json:"bridge,omitempty"`      // the interface
	Foreign    bool              `json:"foreign,omitempty"`     // the interface was there before the network, and stays
	MadeParent bool              `json:"made_parent,omitempty"` // of macvlan and ipvlan: the interface below is ours
	IPv4       bool              `json:"ipv4,omitempty"`
	IPv6       bool              `json:"ipv6,omitempty"`
	Internal   bool              `json:"internal,omitempty"`
	Attachable bool              `json:"attachable,omitempty"`
	IPAM       []subnet          `json:"ipam,omitempty"`
	IPAMOpts   map[string]string `json:"ipam_options,omitempty"`
	Options    map[string]string `json:"options,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
}

type subnet struct {
	Subnet  netip.Prefix          `json:"subnet"`
	Range   netip.Prefix          `json:"range,omitzero"`
	Gateway netip.Addr            `json:"gateway,omitzero"`
	Aux     map[string]netip.Addr `json:"aux,omitempty"`
}

// network is a network in memory. The record and subnets' configurations do not change; who holds which address is under Service.mu.
type network struct {
	record
	subnets []*ipam.Subnet

	making sync.Mutex // one makes what stands for it in the kernel; it guards what follows
	index  int32      // of the bridge; 0: not made yet
	mtu    int
	// bridged4 and bridged6: packets of the family that the bridge passes on go through the host's rules as well (br_netfilter).
	// Then a container's own published port is led back to the very port of the bridge that it came from.
	bridged4, bridged6 bool
}

// filtered: the host's rules see all that the network's containers say to each other.
func (n *network) filtered() bool { return n.bridged4 && (n.bridged6 || !n.IPv6) }

func newNetwork(r record) *network {
	r.V = version
	if r.ID == "" {
		r.ID = ids.New()
	}
	if r.Created.IsZero() {
		r.Created = time.Now().UTC()
	}
	return &network{record: r}
}

// plan makes the subnets of the record, and completes it with the gateways that were chosen.
func (n *network) plan() error {
	for i := range n.IPAM {
		c := &n.IPAM[i]
		s, err := ipam.NewSubnet(ipam.Config{Subnet: c.Subnet, Range: c.Range, Gateway: c.Gateway, Aux: c.Aux, NoGW: n.Driver == "ipvlan" && n.Internal || n.mode(c.Subnet.Addr().Is6()) == modeIsolated})
		if err != nil {
			return err
		}
		c.Gateway = s.Gateway
		n.subnets = append(n.subnets, s)
	}
	return nil
}

// load reads all records.
func (s *Service) load() error {
	return s.State.View(func(tx state.Tx) error {
		return tx.Each(bucket, func(id string, decode func(any) error) error {
			var r record
			if err := decode(&r); err != nil {
				return err
			}
			if r.V > version {
				return errs.Conflict.Errorf("network %s: record version %d was written by a newer gantry; this one knows %d", id, r.V, version)
			}
			n := &network{record: r}
			if err := n.plan(); err != nil {
				return errs.Internal.Errorf("network %s: %w", r.Name, err)
			}
			s.nets[id], s.names[r.Name] = n, id
			return nil
		})
	})
}

// add writes a network down. s.mu is held, or nobody else is there yet.
func (s *Service) add(n *network) error {
	if err := s.State.Update(func(tx state.Tx) error { return tx.Put(bucket, n.ID, &n.record) }); err != nil {
		return err
	}
	s.nets[n.ID], s.names[n.Name] = n, n.ID
	return nil
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

func predefined(name string) bool {
	return name == Bridge || name == Host || name == None || name == api.NetworkDefault
}

// Create makes a network and returns its ID.
func (s *Service) Create(ctx context.Context, r *api.CreateRequest) (id, warning string, err error) {
	if !validName.MatchString(r.Name) || len(r.Name) > 255 {
		return "", "", errs.Invalid.Errorf("invalid network name %q: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", r.Name)
	}
	if predefined(r.Name) {
		return "", "", errs.Forbidden.Errorf("operation is not permitted on predefined %s network ", r.Name)
	}
	rec, err := s.wanted(r)
	if err != nil {
		return "", "", err
	}
	defer s.table.PassLegacy() // without the lock: others start meanwhile
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names[r.Name] != "" {
		return "", "", errs.Conflict.Errorf("network with name %s already exists", r.Name)
	}
	if err := s.subnetsFor(rec); err != nil {
		return "", "", err
	}
	for _, n := range s.nets {
		if rec.BridgeName != "" && n.BridgeName == rec.BridgeName {
			return "", "", errs.Forbidden.Errorf("networks have same bridge name: %s and %s", n.Name, rec.Name)
		}
	}
	n := newNetwork(*rec)
	if n.Driver == "bridge" && n.BridgeName == "" {
		n.BridgeName = "br-" + ids.Short(n.ID)
	}
	if err := n.plan(); err != nil {
		return "", "", err
	}
	switch {
	case n.Driver == "bridge":
		_, err := s.Options.Host.Links().Find(n.BridgeName)
		n.Foreign = err == nil
	case n.isMacvlan():
		_, err := s.Options.Host.Links().Find(n.parentName())
		n.MadeParent = err != nil || slices.ContainsFunc(slices.Collect(maps.Values(s.nets)), func(o *network) bool { return o.MadeParent && o.parentName() == n.parentName() })
	}
	// The record first, and last when a network is removed: whatever kills the engine in between, somebody knows of the bridge.
	if err := s.add(n); err != nil {
		return "", "", err
	}
	failpoint.Hit("network.recorded")
	_, err = s.ensure(n)
	failpoint.Hit("network.made")
	if err != nil {
		if ferr := s.forget(n); ferr != nil {
			s.Log.Error("a network that could not be made stays", "network", n.Name, "err", ferr)
		}
		return "", "", err
	}
	s.event(n, "create")
	return n.ID, "", nil
}

// wanted checks a request as far as it goes by itself.
func (s *Service) wanted(r *api.CreateRequest) (*record, error) {
	rec := &record{Name: r.Name, Driver: r.Driver, Internal: r.Internal, Attachable: r.Attachable, Options: maps.Clone(r.Options), Labels: maps.Clone(r.Labels)}
	if rec.Driver == "" || rec.Driver == "default" {
		rec.Driver = "bridge"
	}
	// By options it was said before there were fields for it.
	option := func(given *bool, name string, otherwise bool) bool {
		if given != nil {
			return *given
		}
		if v, err := strconv.ParseBool(r.Options[name]); err == nil {
			return v
		}
		return otherwise
	}
	rec.IPv4, rec.IPv6 = option(r.EnableIPv4, optEnable4, true), option(r.EnableIPv6, optEnable6, false)
	switch rec.Driver {
	case "bridge", "macvlan", "ipvlan":
	case "host", "null":
		return nil, errs.Forbidden.Errorf("only one instance of %q network is allowed", rec.Driver)
	case "overlay":
		return nil, errs.NotImplemented.Errorf("This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.")
	default:
		return nil, errs.NotFound.Errorf("plugin %q not found", rec.Driver)
	}
	if r.ConfigOnly || r.ConfigFrom != nil && r.ConfigFrom.Network != "" {
		return nil, errs.NotImplemented.Errorf("configuration-only networks are not supported: give the network its own configuration")
	}
	if r.Ingress {
		return nil, errs.NotImplemented.Errorf("Ingress network is not supported: it belongs to swarm")
	}
	if r.Scope != "" && r.Scope != "local" {
		return nil, errs.Invalid.Errorf("invalid scope: %q", r.Scope)
	}
	if !rec.IPv4 && !rec.IPv6 {
		return nil, errs.Invalid.Errorf("IPv4 or IPv6 must be enabled")
	}
	if err := checkOptions(rec); err != nil {
		return nil, err
	}
	rec.BridgeName = rec.Options[optName]
	if r.IPAM == nil {
		return rec, nil
	}
	if d := r.IPAM.Driver; d != "" && d != "default" {
		return nil, errs.NotFound.Errorf("plugin %q not found", d)
	}
	rec.IPAMOpts = r.IPAM.Options
	for _, c := range r.IPAM.Config {
		if !c.Subnet.IsValid() {
			if c.Gateway.IsValid() || c.IPRange.IsValid() || len(c.AuxAddress) > 0 {
				return nil, errs.Invalid.Errorf("invalid network config:\nno subnet given for its gateway, ip-range or auxiliary addresses")
			}
			continue
		}
		if c.Subnet.Addr().Is6() && !rec.IPv6 {
			return nil, errs.Invalid.Errorf("invalid network config:\nIPv6 is disabled for the network, but IPv6 subnet %s was given", c.Subnet)
		}
		rec.IPAM = append(rec.IPAM, subnet{Subnet: c.Subnet, Range: c.IPRange, Gateway: c.Gateway, Aux: c.AuxAddress})
	}
	return rec, nil
}

// subnetsFor chooses what the user did not, and refuses what overlaps. s.mu is held.
func (s *Service) subnetsFor(r *record) error {
	busy, err := s.busy("")
	if err != nil {
		return err
	}
	// A user's own choice may cover what the host routes elsewhere; not another network, nor an interface's subnet of a bridge.
	var taken []netip.Prefix
	for _, n := range s.nets {
		for _, x := range n.subnets {
			taken = append(taken, x.Subnet)
		}
	}
	var have4, have6 bool
	for _, c := range r.IPAM {
		if r.Driver == "bridge" || r.Driver == "macvlan" || r.Driver == "ipvlan" {
			if err := ipam.Check(c.Subnet, taken); err != nil {
				return err
			}
		}
		taken = append(taken, c.Subnet)
		busy = append(busy, c.Subnet)
		have4, have6 = have4 || c.Subnet.Addr().Is4(), have6 || c.Subnet.Addr().Is6()
	}
	if r.IPv4 && !have4 {
		p, err := ipam.Choose(s.Pools, false, busy)
		if err != nil {
			return err
		}
		r.IPAM = append(r.IPAM, subnet{Subnet: p})
	}
	if r.IPv6 && !have6 {
		p, err := ipam.Choose(append(slices.Clone(s.Pools), ipam.ULA(s.ULA)), true, busy)
		if err != nil {
			return err
		}
		r.IPAM = append(r.IPAM, subnet{Subnet: p})
	}
	return nil
}

// Remove deletes a network that nobody is connected to.
func (s *Service) Remove(ctx context.Context, ref string) error {
	defer s.table.PassLegacy() // without the lock
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.find(ref)
	if err != nil {
		return err
	}
	if predefined(n.Name) {
		return errs.Forbidden.Errorf("%s is a pre-defined network and cannot be removed", n.Name)
	}
	return s.remove(n)
}

func (s *Service) remove(n *network) error {
	for _, j := range s.joined {
		if e := j.on(n.ID); e != nil {
			return errs.Forbidden.Errorf("error while removing network: network %s has active endpoints (name:%q id:%q)", n.Name, j.Name, ids.Short(e.ID))
		}
	}
	if err := s.forget(n); err != nil {
		return err
	}
	s.event(n, "destroy")
	return nil
}

// forget takes away what stands for a network, then its record. One whose record stays is made again when it is needed.
func (s *Service) forget(n *network) error {
	s.unmake(n)
	failpoint.Hit("network.unmade")
	if err := s.State.Update(func(tx state.Tx) error { return tx.Delete(bucket, n.ID) }); err != nil {
		return err
	}
	delete(s.nets, n.ID)
	delete(s.names, n.Name)
	return nil
}

// Prune removes the networks that no container, running or not, is meant for, and that match; it returns their names.
func (s *Service) Prune(ctx context.Context, match func(*api.Network) bool, used func(*api.Network) bool) (names []string, err error) {
	defer s.table.PassLegacy() // without the lock
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.sorted() {
		if x := n.describe(); predefined(n.Name) || !match(&x) || used(&x) || s.remove(n) != nil {
			continue
		}
		names = append(names, n.Name)
	}
	return names, nil
}

func (s *Service) sorted() []*network {
	return slices.SortedFunc(maps.Values(s.nets), func(a, b *network) int { return a.Created.Compare(b.Created) })
}

// Get describes one network and who is connected to it.
func (s *Service) Get(ref string) (api.Inspect, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.find(ref)
	if err != nil {
		return api.Inspect{}, err
	}
	return s.inspect(n), nil
}

// List describes all networks, oldest first.
func (s *Service) List() []api.Inspect {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []api.Inspect
	for _, n := range s.sorted() {
		list = append(list, s.inspect(n))
	}
	return list
}

func (s *Service) inspect(n *network) api.Inspect {
	x := api.Inspect{Network: n.describe(), Containers: map[string]api.EndpointResource{}}
	for _, j := range s.joined {
		if e := j.on(n.ID); e != nil {
			x.Containers[j.ID] = api.EndpointResource{Name: j.Name, EndpointID: e.ID, MacAddress: api.HardwareAddr(e.MAC), IPv4Address: e.V4, IPv6Address: e.V6}
		}
	}
	return x
}

func (n *network) describe() api.Network {
	x := api.Network{Name: n.Name, ID: n.ID, Created: n.Created, Scope: "local", Driver: n.Driver, EnableIPv4: n.IPv4, EnableIPv6: n.IPv6,
		IPAM: api.IPAM{Driver: "default", Options: n.IPAMOpts, Config: []api.IPAMConfig{}}, Internal: n.Internal, Attachable: n.Attachable,
		Options: orEmpty(n.Options), Labels: orEmpty(n.Labels)}
	if n.Driver == "host" || n.Driver == "null" {
		x.EnableIPv4 = true
	}
	for _, c := range n.IPAM {
		x.IPAM.Config = append(x.IPAM.Config, api.IPAMConfig{Subnet: c.Subnet, IPRange: c.Range, Gateway: c.Gateway, AuxAddress: c.Aux})
	}
	return x
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return maps.Clone(m)
}
