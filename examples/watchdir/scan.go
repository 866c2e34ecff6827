package main

import (
	"context"
	"errors"
	"io/fs"
	"path"

	"github.com/seed-637b77f9/changefeed"
)

// A File is the row of the table: what a scan sees of a file.
//
// The time is a number, so that == compares all of a row as it should. Of a
// time.Time it would also compare where it is shown (the location's pointer) and
// how it was read (the monotonic clock), and equal files might be changes.
type File struct {
	Path    string // relative to the root, with slashes; the primary key
	Size    int64
	Mode    fs.FileMode
	ModTime int64 // nanoseconds since 1970
}

// A scanner keeps a table like a tree of files.
type scanner struct {
	root       fs.FS
	files      *changefeed.Table[string, File]
	report     func(error)
	unreadable map[string]bool // what the last scan reported, or knew to be reported
}

func newScanner(root fs.FS, report func(error)) *scanner {
	return &scanner{
		root:   root,
		files:  changefeed.NewTable("files", func(f *File) string { return f.Path }),
		report: report,
	}
}

// scan makes the table what the tree is now. It takes time in proportion to the
// number of files, before and now. If ctx is done, it leaves off and returns its
// error; no file that it has not come to counts as deleted.
func (s *scanner) scan(ctx context.Context) error {
	seen := make(map[string]bool, s.files.Len())
	unreadable := make(map[string]bool)
	err := fs.WalkDir(s.root, ".", func(name string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil && name == "." && !entry.IsDir() {
			err = &fs.PathError{Op: "stat", Path: name, Err: errors.New("not a directory")}
		}
		if err == nil && entry.IsDir() {
			return nil // walked next; if that fails, it comes once more, with the error
		}
		var info fs.FileInfo
		if err == nil {
			info, err = entry.Info()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it vanished after it was listed
		}
		if err != nil {
			if !s.unreadable[name] {
				s.report(err)
			}
			unreadable[name] = true
			seen[name] = entry != nil && !entry.IsDir() // a file is there, but nothing is known of it
			return nil
		}
		seen[name] = true
		_, err = s.files.Upsert(File{name, info.Size(), info.Mode(), info.ModTime().UnixNano()})
		return err
	})
	if err != nil {
		return err
	}
	s.unreadable = unreadable

	for name := range s.files.All() { // as it is now: deleting does not disturb it
		if seen[name] || s.hidden(name) {
			continue
		}
		if _, err := s.files.Delete(name); err != nil {
			return err
		}
	}
	return nil
}

// hidden reports whether a file lies in a directory that the last scan could not
// read.
func (s *scanner) hidden(name string) bool {
	for name != "." {
		name = path.Dir(name)
		if s.unreadable[name] {
			return true
		}
	}
	return false
}
