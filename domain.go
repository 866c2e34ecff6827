package changefeed

import (
	"cmp"
	"slices"
	"sync/atomic"
)

// A domain is the lock of one table, or of several that views connect. A write to a table may write to
// all of its views, so they share a domain. A view of two tables merges their domains. Domains are never
// split.
type domain struct {
	tableMutex
	id   uint64                 // that of the table that it was made for; several domains are locked in this order
	into atomic.Pointer[domain] // the domain that this one was merged into, or nil; set once, with the lock held
}

// A domainLock is the lock of a table: that of its domain. Its methods are those of [sync.RWMutex].
type domainLock struct {
	user    lockUser               // see debug.go
	own     domain                 // at first
	current atomic.Pointer[domain] // leads to the table's domain, by way of those that were merged
}

func (l *domainLock) init(id uint64) {
	l.own.id = id
	l.current.Store(&l.own)
}

func (l *domainLock) Lock() {
	for {
		d := l.current.Load()
		l.user.check(&d.tableMutex)
		d.Lock()
		if !l.moveOn(d) {
			l.user.hold(&d.tableMutex)
			return
		}
		d.Unlock()
	}
}

func (l *domainLock) RLock() {
	for {
		d := l.current.Load()
		l.user.check(&d.tableMutex)
		d.RLock()
		if !l.moveOn(d) {
			return
		}
		d.RUnlock()
	}
}

func (l *domainLock) TryLock() bool  { return l.try((*domain).TryLock, (*domain).Unlock) }
func (l *domainLock) TryRLock() bool { return l.try((*domain).TryRLock, (*domain).RUnlock) }

func (l *domainLock) try(lock func(d *domain) bool, unlock func(d *domain)) bool {
	for {
		d := l.current.Load()
		if !lock(d) {
			return false
		}
		if !l.moveOn(d) {
			return true
		}
		unlock(d)
	}
}

// Unlock unlocks the domain that Lock has locked. It cannot have been merged since.
func (l *domainLock) Unlock()  { l.current.Load().Unlock() }
func (l *domainLock) RUnlock() { l.current.Load().RUnlock() }

// hold says that the lock, which is held, is held for this table.
func (l *domainLock) hold() { l.user.hold(&l.current.Load().tableMutex) }

// moveOn reports whether d, which is locked, was merged into another domain, and is not the table's any
// more. The next step from it is then current.
func (l *domainLock) moveOn(d *domain) bool {
	into := d.into.Load()
	if into == nil {
		return false
	}
	l.current.CompareAndSwap(d, into) // unless another goroutine has gone further
	return true
}

// join makes the domain of another table that of l, whose table nobody else knows yet. The other one's
// lock is held.
func (l *domainLock) join(other *domainLock) { l.current.Store(other.current.Load()) }

// root returns the domain of the table. It may be merged before the caller has locked it.
func (l *domainLock) root() *domain {
	for {
		if d := l.current.Load(); !l.moveOn(d) {
			return d
		}
	}
}

// holds reports whether the transaction holds the lock of a table.
func (tx *Tx) holds(l *domainLock) bool { return slices.Contains(tx.domains, l.root()) }

// mergeDomains makes the domains of tables one. The caller holds none of them.
func mergeDomains(tables ...txTable) {
	held := lockDomains(nil, tables, (*domain).lock, (*domain).Unlock)
	defer held.release((*domain).Unlock)
	for _, d := range held[1:] {
		d.into.Store(held[0])
	}
}

// A domainList is domains that are locked, each once, in the order of their ids.
type domainList []*domain

func (d *domain) lock() bool {
	d.Lock()
	return true
}

func (d *domain) rlock() bool {
	d.RLock()
	return true
}

// lockDomains locks the domains of tables, and returns them in list, whose memory it uses. If a lock
// panics, it locks none: see tableMutex in debug.go.
func lockDomains(list domainList, tables []txTable, lock func(d *domain) bool, unlock func(d *domain)) domainList {
	for {
		list = domainsOf(list[:0], tables)
		if list.acquire(lock, unlock) {
			return list
		}
	}
}

// domainsOf appends the domains of tables. They may be merged before they are locked.
func domainsOf(list domainList, tables []txTable) domainList {
	for _, t := range tables {
		list = append(list, t.domainLock().root())
	}
	slices.SortFunc(list, func(a, b *domain) int { return cmp.Compare(a.id, b.id) })
	return slices.Compact(list)
}

// acquire locks all domains. It locks none and returns false if lock fails, or if a domain was merged.
func (list domainList) acquire(lock func(d *domain) bool, unlock func(d *domain)) (ok bool) {
	locked := 0
	defer func() {
		if !ok {
			list[:locked].release(unlock)
		}
	}()
	for _, d := range list {
		if !lock(d) {
			return false
		}
		locked++
		if d.into.Load() != nil {
			return false
		}
	}
	return true
}

func (list domainList) release(unlock func(d *domain)) {
	for _, d := range list {
		unlock(d)
	}
}
