package changefeed

import (
	"cmp"
	"slices"
	"sync/atomic"
)

// A domain is the lock of one table, or of several tables that views connect. A write to a table may also
// write to its views, so the table and its views share a domain. A view of two tables merges their domains.
// Domains are never split.
type domain struct {
	tableMutex
	id   uint64                 // the lockID of the table that it was made for. Several domains are locked in this order
	into atomic.Pointer[domain] // the domain that this one was merged into, or nil. It is set once, with the lock held
}

// A domainLock is the lock of a table, which is the lock of the table's domain. It has the methods of
// [sync.RWMutex], except RLocker.
type domainLock struct {
	user    lockUser               // see debug.go
	own     domain                 // the table's domain until it is merged into another
	current atomic.Pointer[domain] // the table's domain, or one that was merged: its into leads to the table's domain
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

// Unlock unlocks the domain that Lock has locked. A domain is merged only with its lock held, so this one has
// not been merged since.
func (l *domainLock) Unlock()  { l.current.Load().Unlock() }
func (l *domainLock) RUnlock() { l.current.Load().RUnlock() }

// hold records that the lock is held for this table. The caller holds it.
func (l *domainLock) hold() { l.user.hold(&l.current.Load().tableMutex) }

// moveOn reports whether d was merged into another domain, and so is not the table's domain any more. If it
// was, moveOn stores that other domain in current.
func (l *domainLock) moveOn(d *domain) bool {
	into := d.into.Load()
	if into == nil {
		return false
	}
	l.current.CompareAndSwap(d, into) // unless another goroutine has gone further
	return true
}

// join makes l share the domain of other. Nobody else knows the table of l yet, and the lock of other is held.
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

// mergeDomains merges the domains of the tables into one. The caller holds none of their locks.
func mergeDomains(tables ...txTable) {
	held := lockDomains(nil, tables, (*domain).lock, (*domain).Unlock)
	defer held.release((*domain).Unlock)
	for _, d := range held[1:] {
		d.into.Store(held[0])
	}
}

// A domainList has domains to be locked together, each once, in the order of their ids.
type domainList []*domain

func (d *domain) lock() bool {
	d.Lock()
	return true
}

func (d *domain) rlock() bool {
	d.RLock()
	return true
}

// lockDomains locks the domains of the tables and returns them. It uses the memory of list. If a lock panics,
// as a tableMutex of debug.go can, lockDomains holds none of them.
func lockDomains(list domainList, tables []txTable, lock func(d *domain) bool, unlock func(d *domain)) domainList {
	for {
		list = domainsOf(list[:0], tables)
		if list.acquire(lock, unlock) {
			return list
		}
	}
}

// domainsOf appends the domains of the tables to list, in order. Another goroutine may merge them before the
// caller locks them.
func domainsOf(list domainList, tables []txTable) domainList {
	for _, t := range tables {
		list = append(list, t.domainLock().root())
	}
	slices.SortFunc(list, func(a, b *domain) int { return cmp.Compare(a.id, b.id) })
	return slices.Compact(list)
}

// acquire locks all domains. If lock fails, or if a domain was merged, it holds none of them and returns false.
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
