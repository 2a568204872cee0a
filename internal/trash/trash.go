// Package trash keeps what was removed for a while, so that it can be brought back.
//
// A thing (a container, an image, a volume) goes into the trash in the same transaction that removes its record: after
// a crash it is either there as before or in the trash, never both and never neither. Its name, ports and addresses are
// free from then on; its files stay where they are, or are renamed. Undo is the reverse, again one transaction. After
// a time, or earlier when the disk fills, the Bin forgets the thing, again in a transaction, and only then are its files
// deleted: what a crash leaves of them belongs to nobody, and is collected as such.
//
// The services do the rest: each hands over a Keeper for its kind, and puts an Item in with its own transaction.
// What a thing needs of layers and blobs stands in its Item, and is kept from collection until then.
package trash

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
	"gantry/internal/failpoint"
	"gantry/internal/ids"
	"gantry/internal/state"
)

// DefaultKeep is how long a removed thing can be brought back.
const DefaultKeep = 10 * time.Minute

// MaxItems bounds the trash: of more things the oldest go.
const MaxItems = 1000

// bucket holds the items by their ID.
const bucket = "trash"

// The kinds of things.
const (
	Container = "container"
	Image     = "image"
	Volume    = "volume"
)

// Item is a removed thing.
type Item struct {
	ID        string          `json:"id"` // of this removal
	Kind      string          `json:"kind"`
	Key       string          `json:"key"`   // the thing's own ID, or a volume's name
	Names     []string        `json:"names"` // by which users know it
	Operation string          `json:"operation"`
	With      string          `json:"with,omitempty"` // the Key of the thing that took this one along, and brings it back
	Removed   time.Time       `json:"removed"`
	Holds     Holds           `json:"holds,omitzero"`
	Data      json.RawMessage `json:"data"` // what brings it back; the service knows
}

// Holds is what a thing needs of others.
type Holds struct {
	Chains []digest.Digest `json:"chains,omitempty"` // layers, by chain ID
	Blobs  []digest.Digest `json:"blobs,omitempty"`
}

// Name is what to call it.
func (it *Item) Name() string {
	if len(it.Names) > 0 {
		return it.Names[0]
	}
	return ids.Short(it.Key)
}

// Decode reads Data into v.
func (it *Item) Decode(v any) error {
	if err := json.Unmarshal(it.Data, v); err != nil {
		return fmt.Errorf("read what the trash has of %s %s: %w", it.Kind, it.Name(), err)
	}
	return nil
}

// Keeper brings things of one kind back, or deletes what is left of them.
type Keeper interface {
	// Restore brings it back under the name as (empty: its own) and returns its name. A name that is taken is errs.Conflict.
	// taken must be part of the transaction that records the thing.
	Restore(ctx context.Context, it Item, as string, taken func(state.Tx) error) (string, error)
	// Discard deletes files. It may be called twice. The item is in the trash no more.
	Discard(ctx context.Context, it Item) error
	// Size is about how many bytes will be free without it.
	Size(it Item) int64
}

// Checker is a Keeper of things that take others along: volumes come back before the container that holds them, and should not if it
// can't.
type Checker interface {
	// Restorable says why a thing cannot come back under the name as (empty: its own), if so.
	Restorable(it Item, as string) error
}

// Options are what the Bin stands on.
type Options struct {
	Keep time.Duration // 0: there is no trash
	// Disk tells the free and all bytes of the data root's file system. May be nil.
	Disk func() (free, all int64)
	// Collect deletes layers and blobs that nobody needs; called after things were discarded. May be nil.
	Collect func(context.Context) error
	Log     *slog.Logger
}

// Bin is the trash. Its methods may be called from any goroutine. A nil Bin is one that keeps nothing.
type Bin struct {
	Options
	state   *state.Store
	keepers map[string]Keeper

	ctx  context.Context
	end  context.CancelFunc
	wake chan struct{}
	work sync.WaitGroup

	room sync.Mutex // one makes room at a time

	mu        sync.Mutex
	items     map[string]*Item
	busy      map[string]bool // being brought back or discarded, by ID
	protected map[string]bool // by kind/key
}

// Open reads what is in the trash. It deletes nothing before Start.
func Open(st *state.Store, o Options) (*Bin, error) {
	b := &Bin{Options: o, state: st, keepers: map[string]Keeper{}, wake: make(chan struct{}, 1),
		items: map[string]*Item{}, busy: map[string]bool{}, protected: map[string]bool{}}
	b.ctx, b.end = context.WithCancel(context.Background())
	if b.Log == nil {
		b.Log = slog.New(slog.DiscardHandler)
	}
	err := st.View(func(tx state.Tx) error {
		err := tx.Each(bucket, func(id string, decode func(any) error) error {
			it := new(Item)
			if err := decode(it); err != nil {
				return err
			}
			b.items[id] = it
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Each(protectedBucket, func(key string, decode func(any) error) error {
			b.protected[key] = true
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("open the trash: %w", err)
	}
	return b, nil
}

// Handle says who keeps things of a kind. Before Start.
func (b *Bin) Handle(kind string, k Keeper) { b.keepers[kind] = k }

// Start begins to let go of what has been here for long enough.
func (b *Bin) Start() { b.work.Go(b.run) }

// Close ends that. What is in the trash stays.
func (b *Bin) Close() {
	b.end()
	b.work.Wait()
}

// Choice is what whoever removes something decides about the trash.
type Choice struct {
	Now       bool   // delete at once
	Operation string // things with the same are undone together; empty: by itself
	With      string // the Key of the thing that takes others along: a container with `rm -v`
}

type choiceKey struct{}

// Choose returns a ctx with which a removal follows c.
func Choose(ctx context.Context, c Choice) context.Context {
	if c.Operation == "" {
		c.Operation = ids.Short(ids.New())
	}
	return context.WithValue(ctx, choiceKey{}, c)
}

// Along returns a ctx for what is removed together with the thing that has this Key: an undo of that brings it back, too.
func Along(ctx context.Context, key string) context.Context {
	c, _ := ctx.Value(choiceKey{}).(Choice)
	c.With = key
	return Choose(ctx, c)
}

// Takes reports whether what is removed with ctx goes into the trash.
func (b *Bin) Takes(ctx context.Context) bool {
	if b == nil || b.Keep <= 0 {
		return false
	}
	if c, _ := ctx.Value(choiceKey{}).(Choice); c.Now {
		return false
	}
	if b.Disk == nil {
		return true
	}
	// What has been there longer makes room. Where that does not help it would be the first to go; and on a full disk a
	// removal must not need any.
	b.MakeRoom(ctx)
	free, all := b.Disk()
	return free >= reserve(all)
}

// New makes an item of a thing that is being removed with ctx. It is in the trash when it has been Put, and Added.
func (b *Bin) New(ctx context.Context, kind, key string, names []string, data any) (*Item, error) {
	raw, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("put %s %s into the trash: %w", kind, key, err)
	}
	c, _ := ctx.Value(choiceKey{}).(Choice)
	it := &Item{ID: ids.Short(ids.New()), Kind: kind, Key: key, Names: names, Operation: c.Operation, With: c.With, Removed: time.Now().UTC(), Data: raw}
	if it.Operation == "" {
		it.Operation = it.ID
	}
	return it, nil
}

// Put records the item in the transaction that removes the thing.
func (it *Item) Put(tx state.Tx) error { return tx.Put(bucket, it.ID, it) }

// Add makes the item known when that transaction is on disk. From then on nobody collects what it holds: until
// then the service must see to that.
func (b *Bin) Add(it *Item) {
	b.mu.Lock()
	b.items[it.ID] = it
	b.mu.Unlock()
	b.stir()
}

func (b *Bin) stir() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Items lists what is in the trash, what was removed last first; kind may be empty for all.
func (b *Bin) Items(kind string) []Item {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []Item
	for _, it := range b.items {
		if kind == "" || it.Kind == kind {
			list = append(list, *it)
		}
	}
	slices.SortFunc(list, newestFirst)
	return list
}

func newestFirst(x, y Item) int {
	return cmp.Or(y.Removed.Compare(x.Removed), cmp.Compare(x.ID, y.ID))
}

// Has reports whether a thing is in the trash.
func (b *Bin) Has(kind, key string) bool {
	return slices.ContainsFunc(b.Items(kind), func(it Item) bool { return it.Key == key })
}

// Size is about how many bytes will be free without the item.
func (b *Bin) Size(it Item) int64 {
	if k := b.keepers[it.Kind]; k != nil {
		return k.Size(it)
	}
	return 0
}

// Until is when the item goes for good.
func (b *Bin) Until(it Item) time.Time { return it.Removed.Add(b.Keep) }

// Restored is a thing that was brought back.
type Restored struct{ Kind, ID, Name string }

// Undo brings back the thing that ref names (by its name, its ID or the beginning of one), with what went with it;
// without ref, all that the last removal took. as is another name for it. What came back is returned with an error, too.
func (b *Bin) Undo(ctx context.Context, ref, as string) (back []Restored, err error) {
	items, err := b.claim(ref, as)
	if err != nil {
		return nil, err
	}
	var failed []string
	kind := errs.Internal
	stays := map[string]bool{} // the Keys of things that can't come back; what they took along waits for them
	for _, it := range items {
		c, ok := b.keepers[it.Kind].(Checker)
		if !ok || it.With != "" {
			continue
		}
		if err := c.Restorable(it, as); err != nil {
			kind = errs.KindOf(err)
			failed = append(failed, err.Error())
			stays[it.Key] = true
		}
	}
	for i := range items {
		it := &items[i]
		if stays[it.Key] || stays[it.With] {
			b.mu.Lock()
			delete(b.busy, it.ID)
			b.mu.Unlock()
			continue
		}
		name, err := b.restore(ctx, it, as)
		if err != nil {
			kind = errs.KindOf(err)
			failed = append(failed, err.Error())
			continue
		}
		back = append(back, Restored{it.Kind, it.Key, name})
	}
	if len(failed) > 0 {
		return back, kind.Errorf("%s", strings.Join(failed, "\n"))
	}
	return back, nil
}

// claim finds what an undo is about, and keeps others away from it.
func (b *Bin) claim(ref, as string) ([]Item, error) {
	all := b.Items("")
	if len(all) == 0 {
		return nil, errs.NotFound.Errorf("the trash is empty: there is nothing to undo")
	}
	var first *Item
	if ref == "" {
		first = &all[0]
	} else if first = find(all, ref); first == nil {
		return nil, errs.NotFound.Errorf("nothing in the trash is called %q: `gantry undo --list` shows what is there", ref)
	}
	var items []Item
	for _, it := range all {
		if it.Operation == first.Operation && (ref == "" || it.ID == first.ID || it.With != "" && it.With == first.Key) {
			items = append(items, it)
		}
	}
	if as != "" {
		if len(items) > 1 && ref == "" {
			return nil, errs.Invalid.Errorf("the last removal took %d things: say which of them is to be called %q", len(items), as)
		}
		items = slices.DeleteFunc(items, func(it Item) bool { return it.ID != first.ID && it.With == "" })
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, it := range items {
		if b.busy[it.ID] || b.items[it.ID] == nil {
			return nil, errs.Conflict.Errorf("%s %s is just being brought back or deleted", it.Kind, it.Name())
		}
	}
	for _, it := range items {
		b.busy[it.ID] = true
	}
	return items, nil
}

// find looks for what a user means: a name goes before an ID, the newer before the older.
func find(all []Item, ref string) *Item {
	bare := strings.TrimPrefix(ref, "/")
	for i := range all {
		if slices.Contains(all[i].Names, bare) || slices.Contains(all[i].Names, bare+":latest") || all[i].ID == ref {
			return &all[i]
		}
	}
	for i := range all {
		_, hex, _ := strings.Cut(all[i].Key, ":")
		if strings.HasPrefix(all[i].Key, ref) || len(ref) >= 4 && strings.HasPrefix(hex, ref) {
			return &all[i]
		}
	}
	return nil
}

func (b *Bin) restore(ctx context.Context, it *Item, as string) (name string, err error) {
	if it.With != "" {
		as = ""
	}
	k := b.keepers[it.Kind]
	if k == nil {
		err = errs.NotImplemented.Errorf("cannot bring back a %s", it.Kind)
	} else {
		name, err = k.Restore(ctx, *it, as, func(tx state.Tx) error {
			failpoint.Hit("trash.restore")
			return tx.Delete(bucket, it.ID)
		})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.busy, it.ID)
	if err == nil {
		delete(b.items, it.ID)
	}
	return name, err
}

// Empty deletes for good what ref names, or everything, and returns how many things that were and about how many bytes they took.
func (b *Bin) Empty(ctx context.Context, ref string) (things int, bytes int64, err error) {
	all := b.Items("")
	if ref != "" {
		one := find(all, ref)
		if one == nil {
			return 0, 0, errs.NotFound.Errorf("nothing in the trash is called %q: `gantry undo --list` shows what is there", ref)
		}
		all = slices.DeleteFunc(all, func(it Item) bool { return it.ID != one.ID && it.With != one.Key })
	}
	for _, it := range all {
		bytes += b.Size(it)
	}
	things, err = b.discard(ctx, all)
	return things, bytes, err
}

// discard forgets items and deletes what is left of them. It returns how many there were.
func (b *Bin) discard(ctx context.Context, items []Item) (int, error) {
	b.mu.Lock()
	items = slices.DeleteFunc(slices.Clone(items), func(it Item) bool { return b.busy[it.ID] || b.items[it.ID] == nil })
	for _, it := range items {
		b.busy[it.ID] = true
	}
	b.mu.Unlock()
	if len(items) == 0 {
		return 0, nil
	}
	err := b.state.Update(func(tx state.Tx) error {
		for _, it := range items {
			if err := tx.Delete(bucket, it.ID); err != nil {
				return err
			}
		}
		return nil
	})
	failpoint.Hit("trash.forgotten")
	b.mu.Lock()
	for _, it := range items {
		delete(b.busy, it.ID)
		if err == nil {
			delete(b.items, it.ID)
		}
	}
	b.mu.Unlock()
	if err != nil {
		return 0, fmt.Errorf("empty the trash: %w", err)
	}
	for _, it := range items {
		if k := b.keepers[it.Kind]; k != nil {
			if err := k.Discard(ctx, it); err != nil {
				b.Log.Warn("deleting a thing from the trash failed; what is left of it will be collected", "kind", it.Kind, "name", it.Name(), "err", err)
			}
		}
	}
	if b.Collect != nil {
		err = b.Collect(ctx)
	}
	return len(items), err
}

// glance is how often the disk is looked at while something is in the trash.
const glance = time.Second

// run lets go of what is due.
func (b *Bin) run() {
	for {
		wait := time.Hour
		all := b.Items("")
		now := time.Now()
		var due []Item
		for i, it := range all {
			left := b.Until(it).Sub(now)
			// A clock that was set back must not keep things for ever.
			if left <= 0 || left > b.Keep+time.Hour || i >= MaxItems {
				due = append(due, it)
			} else {
				wait = min(wait, left)
			}
		}
		if len(due) > 0 {
			if _, err := b.discard(b.ctx, due); err != nil && b.ctx.Err() == nil {
				b.Log.Error("emptying the trash failed", "err", err)
				wait = time.Minute
			}
		}
		if len(all) > len(due) && b.Disk != nil {
			b.MakeRoom(b.ctx)
			wait = min(wait, glance)
		}
		t := time.NewTimer(max(wait, time.Millisecond))
		select {
		case <-t.C:
		case <-b.wake:
		case <-b.ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
	}
}

// reserve is how many bytes of a disk the trash leaves free: a tenth, at most 5 GiB.
func reserve(all int64) int64 { return min(all/10, 5<<30) }

// Full reports whether the disk has no room for anything.
func (b *Bin) Full() bool {
	if b == nil || b.Disk == nil {
		return false
	}
	free, _ := b.Disk()
	return free < 64<<10
}

// MakeRoom deletes what has been in the trash longest until the disk has room again, if it has too little now.
func (b *Bin) MakeRoom(ctx context.Context) {
	if b == nil || b.Disk == nil {
		return
	}
	free, all := b.Disk()
	if free >= reserve(all) {
		return
	}
	b.room.Lock()
	defer b.room.Unlock()
	if free, all = b.Disk(); free >= reserve(all) {
		return
	}
	items := b.Items("")
	for len(items) > 0 && free < reserve(all) {
		it := items[len(items)-1]
		items = items[:len(items)-1]
		n := b.Size(it)
		if _, err := b.discard(ctx, []Item{it}); err != nil {
			b.Log.Error("making room on a full disk failed", "err", err)
			return
		}
		b.Log.Warn("the disk is filling: what was removed is deleted for good", "kind", it.Kind, "name", it.Name(), "bytes", n)
		free += n
	}
	// The deleting is under way: who needs the room waits for it, and half a second at most for the next bit of it.
	most := int64(0)
	for still := 0; still < 100; still++ {
		now, _ := b.Disk()
		if now >= min(free, reserve(all)) || ctx.Err() != nil {
			return
		}
		if now > most {
			most, still = now, 0
		}
		time.Sleep(5 * time.Millisecond)
	}
}
