package main

import (
	"context"
	"errors"
	"io/fs"
	"path"

	"github.com/seed-637b77f9/changefeed"
)

// A File is the row that a scan stores for a file.
//
// The time is a number, so that == compares rows correctly. With a time.Time, == would
// also compare the pointer to its location and its monotonic clock reading. An unchanged
// file could then differ from its row.
type File struct {
	Path    string // relative to the root, with slashes (the primary key)
	Size    int64
	Mode    fs.FileMode
	ModTime int64 // nanoseconds since 1970
}

// A scanner keeps a table in step with a tree of files.
type scanner struct {
	root       fs.FS
	files      *changefeed.Table[string, File]
	report     func(error)
	unreadable map[string]bool // unreadable paths of the last scan, which are reported
}

func newScanner(root fs.FS, report func(error)) *scanner {
	return &scanner{
		root:   root,
		files:  changefeed.NewTable("files", func(f *File) string { return f.Path }),
		report: report,
	}
}

// scan updates the table to the present state of the tree. It takes time in proportion to
// the number of files, including deleted ones. If ctx is done, scan stops and returns the
// context's error. It then deletes no rows, because it has not visited every file.
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
			return nil // WalkDir reads it next, and calls this function again if that fails
		}
		var info fs.FileInfo
		if err == nil {
			info, err = entry.Info()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the file was deleted after it was listed
		}
		if err != nil {
			if !s.unreadable[name] {
				s.report(err)
			}
			unreadable[name] = true
			seen[name] = entry != nil && !entry.IsDir() // the file exists, so its row stays
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

	for name := range s.files.All() { // a snapshot, so rows can be deleted in the loop
		if seen[name] || s.hidden(name) {
			continue
		}
		if _, err := s.files.Delete(name); err != nil {
			return err
		}
	}
	return nil
}

// hidden reports whether a file is in a directory that the last scan could not read.
func (s *scanner) hidden(name string) bool {
	for name != "." {
		name = path.Dir(name)
		if s.unreadable[name] {
			return true
		}
	}
	return false
}
